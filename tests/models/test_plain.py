"""Plain networks, `shortcut="none"`: a residual network's convolutions, and nothing that goes around them."""

import json

import numpy as np
import pytest
from keras import layers

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError
from keras_resnet.models.config_files import load_config
from keras_resnet.models.registry import get_config
from keras_resnet.models.resnet import build_model
from keras_resnet.storage import load_model, read_config, save_model

SIZE = (16, 16, 3)
PLAIN = get_config("resnet8").replace(name="plain8", shortcut="none", input_shape=SIZE)


def shapes(model):
    return {weight.path: tuple(weight.shape) for weight in model.weights}


@pytest.mark.parametrize("name", ["resnet8", "resnet8_b", "resnetv2_20", "resnet18d", "seresnet50"])
def test_weights_are_the_residual_networks_less_its_projections(name):
    config = get_config(name)
    config = config.replace(depths=tuple(min(2, depth) for depth in config.depths), project_first_block=False)
    residual, plain = (build_model(config.replace(shortcut=kind)) for kind in (config.shortcut, "none"))
    expected = {path: shape for path, shape in shapes(residual).items() if "_shortcut_" not in path}
    assert shapes(plain) == expected
    names = {layer.name for layer in residual.layers}
    around = {name for name in names if "_shortcut_" in name or name.endswith("_add")}
    assert around or config.activation_order == "pre"
    assert {layer.name for layer in plain.layers} == names - around
    assert not any(isinstance(layer, layers.Add) for layer in plain.layers)


@pytest.mark.parametrize("order", ["post", "pre"])
def test_everything_passes_through_every_block(order):
    """With one convolution silenced, a plain network has the same answer for all images; a residual one has not."""
    images = np.random.default_rng(0).normal(size=(2, *SIZE)).astype(np.float32)
    for shortcut, is_blind in (("none", True), ("pad", False)):
        model = build_model(PLAIN.replace(shortcut=shortcut, activation_order=order))
        model.get_layer("stage2_block1_conv2").kernel.assign(np.zeros((3, 3, 32, 32)))
        first, second = np.asarray(model(images))
        assert np.array_equal(first, second) == is_blind


def test_a_plain_network_keeps_its_configuration_in_its_file(tmp_path):
    model = build_model(PLAIN)
    preprocessing = Preprocessing(16, 16, 3, (0.5,) * 3, (0.2,) * 3, labels=tuple("abcdefghij"))
    save_model(model, tmp_path / "plain.keras", preprocessing, PLAIN)
    assert read_config(tmp_path / "plain.keras") == PLAIN
    images = np.ones((1, *SIZE), np.float32)
    np.testing.assert_array_equal(load_model(tmp_path / "plain.keras")[0](images), model(images))


def test_a_plain_network_comes_from_a_file(tmp_path):
    path = tmp_path / "plain.json"
    path.write_text(json.dumps({"base": "resnet8", "shortcut": "none"}))
    assert load_config(path).shortcut == "none"
    assert build_model(load_config(path)).count_params() == build_model("resnet8").count_params()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"last_gamma": "zeros"}, "last_gamma 'zeros' needs a shortcut"),
        ({"project_first_block": True}, "project_first_block needs a shortcut"),
        ({"conv_bias": ("inner", "shortcut")}, "conv_bias 'shortcut' needs a shortcut"),
    ],
)
def test_fields_that_speak_of_a_shortcut_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        PLAIN.replace(**changes)


def test_options_that_speak_of_a_shortcut_are_refused():
    with pytest.raises(UserError, match="stochastic_depth_rate needs a shortcut"):
        build_model(PLAIN, stochastic_depth_rate=0.1)
    with pytest.raises(UserError, match="last_gamma 'zeros' needs a shortcut"):
        build_model(PLAIN, last_gamma="zeros")
