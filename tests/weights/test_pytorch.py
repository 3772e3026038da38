"""PyTorch's weights in our networks give PyTorch's numbers, and ours written for PyTorch have its names."""

import hashlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet.errors import UserError
from keras_resnet.models.resnet import build_model
from keras_resnet.weights import pytorch, torch_files
from keras_resnet.weights.assign import variables_by_name
from keras_resnet.weights.loading import learnt_preprocessing, load_reported, load_weights

torch = pytest.importorskip("torch")

REFERENCES = json.loads(Path(__file__).with_name("references.json").read_text())["models"]
# Both sides compute in float32 and add up in another order: after 150 layers they differ by about 1e-6 of the largest
# logit, measured. A wrong padding, epsilon or order of channels shows at 1e-3 and above.
RELATIVE = 1e-4


@pytest.mark.parametrize("key", REFERENCES)
@pytest.mark.usefixtures("zero_kernels")
def test_logits_equal_torchvision_and_timm(key, images, named_state):
    reference = REFERENCES[key]
    expected = np.array(reference["logits"])
    model = build_model(
        key.split("@")[0],
        num_classes=expected.shape[1],
        input_shape=images.shape[1:],
        **reference["options"],
    )
    state = named_state(model)

    lines = sorted(f"{name} {value.shape} {value.dtype}" for name, value in state.items())
    assert len(state) == reference["names"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == reference["names_sha256"]

    _, report = load_reported(model, state)
    assert report.variables == len(variables_by_name(model))
    assert all(name.endswith("num_batches_tracked") for name in report.ignored)
    logits = np.asarray(model(images, training=False))
    assert np.abs(logits - expected).max() < RELATIVE * np.abs(expected).max()
    # The two images' logits differ by far more than the tolerance, so the comparison sees the images.
    assert np.abs(expected[0] - expected[1]).max() > 50 * RELATIVE * np.abs(expected).max()

    back = pytorch.to_state_dict(model)
    assert all(np.array_equal(back[name], state[name]) for name in state)


def cifar_logits(state: dict, images: np.ndarray) -> np.ndarray:
    """He 2015's CIFAR network with shortcut A, written out with PyTorch's functions."""
    from torch.nn import functional as F

    def norm(x, name):
        return F.batch_norm(x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    with torch.no_grad():
        x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        x = F.relu(norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1"))
        for stage in (1, 2, 3):
            block = 0
            while f"layer{stage}.{block}.conv1.weight" in state:
                name = f"layer{stage}.{block}"
                stride = 2 if stage > 1 and block == 0 else 1
                y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
                y = F.relu(norm(y, f"{name}.bn1"))
                y = norm(F.conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
                if stride == 2:
                    quarter = y.shape[1] // 4
                    x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
                x = F.relu(x + y)
                block += 1
        return F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"]).numpy()


@pytest.mark.parametrize(("name", "file", "correct"), [
    ("resnet20", "resnet20-12fca82f.th", 932),
    ("resnet32", "resnet32-d509ac18.th", 944),
])  # fmt: skip
def test_real_checkpoints_predict_what_they_do_in_pytorch(name, file, correct, shared):
    model = load_weights(name, shared / "weights" / file)
    data = np.load(shared / "data" / "cifar10_subset.npz")
    labels = data["y_test"].ravel()
    settings = learnt_preprocessing(model, shared / "weights" / file)
    assert settings.labels[3] == "cat"
    pixels = (data["x_test"] / 255 - np.array(settings.mean)) / np.array(settings.std)
    pixels = pixels.astype(np.float32)

    content = torch.load(shared / "weights" / file, map_location="cpu", weights_only=True)
    state = {key.removeprefix("module."): value for key, value in content["state_dict"].items()}
    expected = np.concatenate([cifar_logits(state, pixels[start : start + 339]) for start in range(0, 1017, 339)])
    logits = model.predict(pixels, batch_size=339, verbose=0)

    np.testing.assert_allclose(logits, expected, atol=1e-3)  # float32; logits reach 30
    np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
    assert (logits.argmax(1) == labels).sum() == correct == (expected.argmax(1) == labels).sum()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("naming", pytorch.NAMINGS)
@pytest.mark.parametrize("name", ["resnet20_b", "resnetv2_20", "wrn_16_4"])
def test_files_of_every_naming_come_back_as_they_were(name, naming, suffix, tmp_path, named_state):
    model = build_model(name)
    load_reported(model, named_state(model))
    pytorch.save_checkpoint(model, tmp_path / f"w{suffix}", naming)
    again = load_weights(name, tmp_path / f"w{suffix}")
    for before, after in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_torchvision_itself_would_take_our_state_dict():
    # What the recorded digests say about resnet18 and resnet50, spelled out for a few names.
    state = pytorch.to_state_dict(build_model("resnet18"))
    assert state["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert state["layer2.0.downsample.1.running_var"].shape == (128,)
    assert state["fc.weight"].shape == (1000, 512)
    assert state["bn1.num_batches_tracked"].dtype == np.int64


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {"model": state},
    lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    lambda state: {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
    lambda state: {name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()},
])  # fmt: skip
@pytest.mark.parametrize("suffix", [".pth", ".th", ".pt", ".bin"])
def test_checkpoints_are_found_in_their_wrappings(wrap, suffix, small, tmp_path):
    model, state = small
    torch.save(wrap({name: torch.from_numpy(value) for name, value in state.items()}), tmp_path / f"w{suffix}")
    load_weights(model, tmp_path / f"w{suffix}")
    # bfloat16 keeps 8 bits of the fraction.
    np.testing.assert_allclose(model.get_layer("logits").get_weights()[1], state["linear.bias"], rtol=2**-8)


def test_legacy_files_are_read(small, tmp_path):
    model, state = small
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    torch.save(tensors, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    load_weights(model, tmp_path / "w.pth")
    np.testing.assert_array_equal(model.get_layer("logits").get_weights()[1], state["linear.bias"])


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def hostile_archive(folder) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Hostile(folder), protocol=2))
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def bad_checkpoints(state, proof) -> dict[str, tuple[bytes, str]]:
    """File name → its bytes and what the refusal says."""
    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(value) for name, value in state.items()}, buffer)
    whole = buffer.getvalue()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(byte ^ 0xFF for byte in whole[middle : middle + 64]) + whole[middle + 64 :]
    empty = io.BytesIO()
    torch.save({}, empty)
    numbers = io.BytesIO()
    torch.save([1, 2, 3], numbers)
    module = io.BytesIO()
    torch.save(torch.nn.Linear(1, 1), module)
    return {
        "hostile.pth": (pickle.dumps(Hostile(proof)), "more than tensors"),
        "hostile_archive.pth": (hostile_archive(proof), "more than tensors"),
        "whole_module.pth": (module.getvalue(), "more than tensors"),
        "truncated.pth": (whole[:middle], "damaged"),
        "flipped.pth": (flipped, "damaged"),
        "nothing.pth": (b"", "is empty"),
        "no_tensors.pth": (empty.getvalue(), "holds no tensors"),
        "numbers.pth": (numbers.getvalue(), "holds no tensors"),
        "text.pth": (b"this is no checkpoint", "no checkpoint"),
        "text.safetensors": (b"this is no checkpoint", "damaged or no safetensors"),
        "nothing.safetensors": (b"", "damaged or no safetensors"),
    }


BAD = list(bad_checkpoints({"a": np.zeros(5000, np.float32)}, "unused"))


@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoints_are_refused_unopened_and_change_nothing(name, small, tmp_path):
    model, state = small
    proof = tmp_path / "code_ran"
    content, reason = bad_checkpoints(state, proof)[name]
    (tmp_path / name).write_bytes(content)
    before = model.get_weights()
    with pytest.raises(UserError, match=reason) as raised:
        load_weights(model, tmp_path / name)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not proof.exists()
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_hostile_checkpoint_would_have_run_code(tmp_path):
    # Without this the test above could pass on a harmless file.
    pickle.loads(pickle.dumps(Hostile(tmp_path / "code_ran")))
    assert (tmp_path / "code_ran").is_dir()


def test_truncated_safetensors_are_refused(small, tmp_path):
    model, _ = small
    pytorch.save_checkpoint(model, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_weights(model, tmp_path / "w.safetensors")


def test_other_networks_checkpoints_are_refused_by_name(small):
    model, _ = small
    with pytest.raises(UserError, match="no name fits"):
        load_weights(model, {"encoder.weight": np.zeros((3, 3), np.float32)})
    with pytest.raises(UserError, match="Left over"):
        load_weights(model, pytorch.to_state_dict(build_model("resnet20")))


def test_missing_packages_are_named(monkeypatch, tmp_path, small):
    model, _ = small
    (tmp_path / "w.pth").write_bytes(b"x")
    (tmp_path / "w.safetensors").write_bytes(b"x")
    for package, suffix in (("torch", ".pth"), ("safetensors.numpy", ".safetensors")):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(UserError, match=r"keras-resnet\[torch\]"):
            load_weights(model, tmp_path / f"w{suffix}")


def test_safetensors_need_no_pytorch(monkeypatch, tmp_path, small):
    model, state = small
    load_weights(model, state)
    pytorch.save_checkpoint(model, tmp_path / "w.safetensors")
    monkeypatch.setattr(torch_files, "_import_torch", lambda: pytest.fail("PyTorch was asked for"))
    again = load_weights("resnet8", tmp_path / "w.safetensors")
    np.testing.assert_array_equal(again.get_layer("logits").get_weights()[1], state["linear.bias"])


def test_old_pytorch_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(UserError, match=r"2\.6"):
        torch_files._import_torch()


def test_a_network_for_a_name_follows_the_checkpoint(named_state):
    state = named_state(build_model("resnet8", num_classes=7, input_shape=(32, 32, 1)))
    model = load_weights("resnet8", state)
    assert model.input_shape == (None, 32, 32, 1)
    assert model.output_shape == (None, 7)


def test_group_normalisation_has_no_statistics(named_state):
    model = build_model("resnet18", norm="group", input_shape=(64, 64, 3))
    state = named_state(model)
    assert not any("running" in name for name in state)
    load_weights(model, state)
    np.testing.assert_array_equal(model.get_layer("stem_norm").get_weights()[0], state["bn1.weight"])


def test_backbones_leave_what_they_have_no_place_for(named_state):
    state = named_state(build_model("resnetv2_50_timm", input_shape=(64, 64, 3)))
    for options in ({"include_top": False}, {"features_only": True}):
        model = build_model("resnetv2_50_timm", input_shape=(64, 64, 3), **options)
        _, report = load_reported(model, state)
        assert "head.fc.weight" in report.ignored
        assert ("norm.weight" in report.ignored) == ("features_only" in options)
    assert isinstance(model, keras.Model)


def test_tensors_that_are_no_plain_weights_are_refused_before_they_are_unpacked(tmp_path):
    torch = pytest.importorskip("torch")
    cases = {
        "sparse": torch.eye(4).to_sparse(),
        "complex": torch.ones(3, dtype=torch.complex64),
        "claims 6,800,000,000 bytes": torch.ones(1).expand(1_700_000_000),
    }
    for message, tensor in cases.items():
        torch.save({"conv1.weight": tensor}, tmp_path / "w.pth")
        assert (tmp_path / "w.pth").stat().st_size < 10_000
        with pytest.raises(UserError, match=rf"w\.pth: 'conv1\.weight' .*{message}"):
            torch_files.read_checkpoint(tmp_path / "w.pth")
