"""`keras-resnet convert` from the command line."""

import json
import subprocess
import sys

import numpy as np
import pytest

from keras_resnet.choices import NAMINGS
from keras_resnet.cli import convert
from keras_resnet.models.resnet import build_model
from keras_resnet.storage import load_model
from keras_resnet.weights import pytorch, torch_files


@pytest.fixture
def checkpoint(tmp_path):
    pytorch.save_checkpoint(build_model("resnet8"), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_there_and_back_again(checkpoint, tmp_path, capsys):
    ours, back = tmp_path / "ours.keras", tmp_path / "back.pth"
    arguments = [str(checkpoint), "--model", "resnet8", str(ours), "--json"]
    assert convert.main([*arguments, "--preprocessing-of", "akamaster:cifar10"]) == 2  # not of this network
    assert not ours.exists()
    assert convert.main(arguments) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["max_difference"] == 0
    assert said["parameters"] == build_model("resnet8").count_params()
    assert "No preprocessing" in said["remarks"][0]
    assert load_model(ours)[1] is None
    assert convert.main([str(ours), "--to", "torch", str(back)]) == 0
    first, second = torch_files.read_checkpoint(checkpoint), torch_files.read_checkpoint(back)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert first["bn1.num_batches_tracked"].shape == ()  # torchvision's, also in .safetensors


def test_published_files_bring_their_preprocessing(shared_weights, tmp_path, capsys):
    source = shared_weights / "resnet20-12fca82f.th"
    assert convert.main([str(source), "--model", "resnet20", str(tmp_path / "m.keras"), "--json"]) == 0
    _, preprocessing = load_model(tmp_path / "m.keras")
    assert preprocessing.std == (0.229, 0.224, 0.225)
    assert preprocessing.labels[0] == "airplane"


@pytest.fixture
def shared_weights(pytestconfig):
    for folder in (pytestconfig.rootpath.parent, pytestconfig.rootpath.parents[1]):
        if (folder / "shared" / "weights").is_dir():
            return folder / "shared" / "weights"
    pytest.skip("no real weights beside the checkout")


def test_labels_and_preprocessing_can_be_given(tmp_path, checkpoint, capsys):
    state = pytorch.to_state_dict(build_model("resnet20", num_classes=2))
    pytorch.save_checkpoint(build_model("resnet20", num_classes=2), tmp_path / "two.safetensors")
    (tmp_path / "labels.txt").write_text("ship\ntruck\n")
    arguments = [str(tmp_path / "two.safetensors"), "--model", "resnet20", str(tmp_path / "two.keras")]
    like = ["--preprocessing-of", "akamaster:cifar10"]
    assert convert.main([*arguments, "--labels", str(tmp_path / "labels.txt")]) == 2
    assert convert.main([*arguments, *like, "--labels", str(tmp_path / "labels.txt")]) == 0
    model, preprocessing = load_model(tmp_path / "two.keras")
    assert preprocessing.labels == ("ship", "truck")
    assert model.output_shape == (None, 2) == (None, state["linear.bias"].shape[0])
    (tmp_path / "labels.txt").write_text("ship\n")
    assert convert.main([*arguments, *like, "--labels", str(tmp_path / "labels.txt")]) == 2


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["w.pth", "m.keras"], "--model"),
    (["w.pth", "m.keras", "--model", "resnet21"], "'resnet20'"),
    (["w.pth", "m.keras", "--model", "resnet20"], "no checkpoint w.pth"),
    (["w.pth", "m.onnx", "--model", "resnet20"], "suffix to write"),
    (["w.pth", "m.keras", "--model", "resnet20", "--to", "torch"], "--to torch writes"),
    (["w.pth", "m.keras", "--model", "resnet20", "--num-classes", "0"], "at least 1"),
    (["w.pth", "m.keras", "--model", "resnet20", "--labels", "nowhere.txt"], "nowhere.txt"),
    (["absent.keras", "m.pth"], "no model file"),
    (["w.pth", "m.keras", "--modle", "resnet20"], "--model"),
])  # fmt: skip
def test_what_a_user_got_wrong_is_one_line_and_exit_code_2(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert convert.main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_help_imports_no_tensorflow():
    code = (
        "import sys; from keras_resnet.cli import main\n"
        "try: main.main(['convert', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--preprocessing-of" in done.stdout


def test_the_lists_of_choices_are_the_packages_own():
    assert set(NAMINGS) == set(pytorch.NAMINGS)
    assert convert.TARGETS["torch"] == torch_files.SUFFIXES
