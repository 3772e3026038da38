"""Networks by name and by keras.applications' functions."""

import inspect

import keras
import numpy as np
import pytest

import keras_resnet
from keras_resnet import applications
from keras_resnet.errors import UserError
from keras_resnet.models.registry import REGISTRY, get_config


@pytest.mark.parametrize("name", ["ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2"])
def test_arguments_are_keras_applications(name):
    ours = inspect.signature(getattr(applications, name)).parameters
    theirs = inspect.signature(getattr(keras.applications, name)).parameters
    assert list(ours) == list(theirs)
    for argument in (
        "include_top",
        "weights",
        "input_tensor",
        "input_shape",
        "pooling",
        "classes",
        "classifier_activation",
    ):
        assert ours[argument].default == theirs[argument].default


def test_every_function_names_a_network():
    for function, name in applications.FUNCTIONS.items():
        assert name in REGISTRY
        assert getattr(applications, function).__name__ == function
        assert name in getattr(applications, function).__doc__
    assert keras_resnet.ResNet18 is applications.ResNet18


@pytest.mark.parametrize(("name", "count"), [("ResNet50", 25_636_712), ("ResNet50V2", 25_613_800)])
def test_the_six_are_kerass_own_networks(name, count):
    assert getattr(applications, name)(weights=None).count_params() == count


def test_a_keras_workflow_runs():
    base = applications.ResNet18(include_top=False, weights=None, pooling="avg")
    assert base.input_shape == (None, None, None, 3)
    assert base.output_shape == (None, 512)
    inputs = keras.Input((64, 64, 3))
    model = applications.ResNet18(weights=None, input_tensor=inputs, classes=5, name="mine")
    probabilities = model.predict(np.zeros((1, 64, 64, 3), np.float32), verbose=0)
    assert model.name == "mine"
    np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-5)
    logits = applications.ResNet18(weights=None, input_shape=(64, 64, 3), classifier_activation=None)
    assert logits.layers[-1].name == "logits"


def test_weights_that_are_none_of_the_kinds_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no file 'nowhere\.pth'"):
        keras_resnet.create_model("resnet18", weights="nowhere.pth")
    (tmp_path / "w.txt").write_text("x")
    with pytest.raises(UserError, match=r"\.safetensors"):
        keras_resnet.create_model("resnet18", weights=tmp_path / "w.txt", input_shape=(64, 64, 3))
    with pytest.raises(UserError, match="Unknown weights for 'resnet18'"):
        keras_resnet.create_model("resnet18", weights="torchvision:IMAGENET1K_V9")


def test_a_network_can_be_made_of_a_configuration_or_differ_from_a_row_in_fields():
    config = get_config("resnet8").replace(name="mine", attention="eca")
    model = keras_resnet.create_model(config, num_classes=3)
    assert (model.name, model.output_shape) == ("mine", (None, 3))
    changed = keras_resnet.create_model("resnet8", num_classes=3, attention="eca", last_gamma="zeros")
    assert [layer.name for layer in changed.layers] == [layer.name for layer in model.layers]
    tiered = keras_resnet.create_model("resnet18", depths=(1, 1, 1, 1), stem="tiered", input_shape=(64, 64, 3))
    assert tiered.get_layer("stem_conv1").filters == 24
    own = keras_resnet.ResNetConfig(name="own", block="basic", depths=(1, 1), widths=(8, 16), strides=(1, 2))
    assert keras_resnet.create_model(own, input_shape=(32, 32, 3), num_classes=2).output_shape == (None, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"atention": "eca"}, "Unknown option or ResNetConfig field 'atention'. Closest: 'attention'"),
        ({"output_strid": 8}, "Closest: 'output_stride'"),
        ({"attention": "ecaa"}, "Unknown attention 'ecaa'. Closest: 'eca'"),
        ({"config": "resnet18"}, "Unknown option"),
    ],
)
def test_fields_and_options_that_do_not_exist_are_refused_with_the_closest(options, message):
    with pytest.raises(UserError, match=message):
        keras_resnet.create_model("resnet8", **options)
