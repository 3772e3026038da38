"""keras.applications' six ResNets and ours give the same numbers from the same weights, live or from their files."""

import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from named_tensors import CLASSES, tensor

from keras_resnet.applications import FUNCTIONS
from keras_resnet.errors import UserError
from keras_resnet.models.resnet import build_model
from keras_resnet.weights.assign import variables_by_name
from keras_resnet.weights.loading import load_reported, load_weights

KINDS = {"kernel": "weight", "gamma": "weight", "moving_mean": "running_mean", "moving_variance": "running_var"}
NETWORKS = [
    "ResNet50",
    "ResNet50V2",
    pytest.param("ResNet101", marks=pytest.mark.slow),
    pytest.param("ResNet101V2", marks=pytest.mark.slow),
    pytest.param("ResNet152", marks=pytest.mark.slow),
    pytest.param("ResNet152V2", marks=pytest.mark.slow),
]


def filled(network: str, side: int, **options) -> keras.Model:
    model = getattr(keras.applications, network)(
        weights=None, input_shape=(side, side, 3), classes=CLASSES, classifier_activation=None, **options
    )
    for layer in model.layers:
        for weight in layer.weights:
            shape = tuple(weight.shape)
            turned = (shape[-1], *shape[:-1]) if weight.name == "kernel" else shape  # fan-in behind the first axis
            value = tensor(f"{layer.name}.{KINDS.get(weight.name, 'bias')}", turned)
            weight.assign(np.moveaxis(value, 0, -1) if weight.name == "kernel" else value)
    return model


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.usefixtures("zero_kernels")
def test_logits_equal_keras_applications(network, images):
    theirs = filled(network, images.shape[1])
    ours = build_model(FUNCTIONS[network], num_classes=CLASSES, input_shape=images.shape[1:])
    _, report = load_reported(ours, theirs)
    assert report.variables == len(variables_by_name(ours))
    expected = np.asarray(theirs(images, training=False))
    # The same operators in the same order: measured equal to the bit, 1e-4 leaves room for another build.
    np.testing.assert_allclose(ours(images, training=False), expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * np.abs(expected).max()


@pytest.fixture(scope="module")
def files(tmp_path_factory, zero_kernels_module):
    """ResNet50V2's weights in each layout, and one of its kernels."""
    folder = tmp_path_factory.mktemp("files")
    model = filled("ResNet50V2", 32)
    model.save_weights(folder / "new.weights.h5")
    model.save(folder / "whole.keras")
    model.save(folder / "whole.h5")
    # As Keras 2 wrote the published files: no "model_weights" above, and ":0" behind the names.
    with h5py.File(folder / "published.h5", "w") as file:
        for layer in model.layers:
            group = file.create_group(layer.name)
            for weight in layer.weights:
                group.create_dataset(f"{layer.name}/{weight.name}:0", data=weight.numpy())
    return folder, model


@pytest.mark.parametrize("name", ["new.weights.h5", "whole.keras", "whole.h5", "published.h5"])
def test_every_layout_of_files_is_read(name, files):
    folder, theirs = files
    ours = load_weights("resnetv2_50", folder / name)
    assert ours.output_shape == (None, CLASSES)
    for our_layer, layer in (
        ("stage4_block3_conv3", "conv5_block3_3_conv"),
        ("stage1_block1_norm1", "conv2_block1_preact_bn"),
        ("stage2_block1_shortcut_conv", "conv3_block1_0_conv"),
        ("final_norm", "post_bn"),
        ("logits", "predictions"),
    ):
        expected = theirs.get_layer(layer).get_weights()
        for one, other in zip(ours.get_layer(our_layer).get_weights(), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_our_own_files_are_read(small, tmp_path):
    model, state = small
    load_weights(model, state)
    model.save(tmp_path / "ours.keras")
    model.save_weights(tmp_path / "ours.weights.h5")
    for name in ("ours.keras", "ours.weights.h5"):
        again = load_weights("resnet8", tmp_path / name)
        for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("remembered_rows", "zero_kernels")
def test_files_without_top_need_a_network_without_top_or_a_new_head(tmp_path):
    theirs = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(32, 32, 3))
    theirs.save_weights(tmp_path / "notop.weights.h5")
    load_weights(build_model("resnet50_v1", include_top=False), tmp_path / "notop.weights.h5")
    with pytest.raises(UserError, match="logits/kernel"):
        load_weights("resnet50_v1", tmp_path / "notop.weights.h5")
    _, report = load_reported("resnet50_v1", tmp_path / "notop.weights.h5", head="new")
    assert report.new == ("logits/kernel", "logits/bias")


@pytest.mark.usefixtures("remembered_rows")
def test_v1_weights_do_not_pass_for_v2_or_for_v1_5(files):
    folder, _ = files
    for name in ("resnet50_v1", "resnet50"):
        with pytest.raises(UserError, match="does not fit"):
            load_weights(name, folder / "new.weights.h5")


def bad_file(kind: str, folder, whole) -> str:
    path = folder / kind
    content = whole.read_bytes()
    if kind == "truncated.keras":
        path.write_bytes(content[: len(content) // 2])
    elif kind in ("nothing.h5", "nothing.keras"):
        path.write_bytes(b"")
    elif kind == "text.h5":
        path.write_text("this is no HDF5")
    elif kind == "empty.h5":
        h5py.File(path, "w").close()
    elif kind == "other.keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
    elif kind == "link.h5":
        (folder / "secret").write_bytes(bytes(64))
        with h5py.File(path, "w") as file:
            group = file.create_group("conv1_conv/conv1_conv")
            group.create_dataset("kernel:0", shape=(16,), dtype="f4", external=[(str(folder / "secret"), 0, 64)])
    elif kind == "bomb.h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("conv1_conv/conv1_conv/kernel:0", shape=(1 << 40,), dtype="f4", chunks=(1024,))
    return str(path)


@pytest.mark.parametrize(("kind", "reason"), [
    ("truncated.keras", "damaged"),
    ("nothing.h5", "damaged"),
    ("nothing.keras", "damaged"),
    ("text.h5", "damaged"),
    ("empty.h5", "holds no weights"),
    ("other.keras", r"no model\.weights\.h5"),
    ("link.h5", "does not hold its numbers itself"),
    ("bomb.h5", "does not hold its numbers itself"),
    ("absent.h5", "no weights file"),
])  # fmt: skip
def test_bad_files_are_refused_and_change_nothing(kind, reason, small, tmp_path):
    model, state = small
    load_weights(model, state)
    model.save(tmp_path / "good.keras")
    before = model.get_weights()
    with pytest.raises(UserError, match=reason) as raised:
        load_weights(model, bad_file(kind, tmp_path, tmp_path / "good.keras"))
    assert kind in str(raised.value)
    assert "\n" not in str(raised.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_code_in_a_keras_file_is_never_looked_at(small, tmp_path):
    model, state = small
    load_weights(model, state)
    model.save(tmp_path / "good.keras")
    hostile = {"class_name": "Lambda", "module": "keras.layers", "config": {"function": "open('ran', 'w')"}}
    with zipfile.ZipFile(tmp_path / "good.keras") as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with zipfile.ZipFile(tmp_path / "hostile.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(hostile))
        archive.writestr("model.weights.h5", weights.getvalue())
    again = load_weights("resnet8", tmp_path / "hostile.keras")
    np.testing.assert_array_equal(again.get_layer("logits").get_weights()[1], state["linear.bias"])
