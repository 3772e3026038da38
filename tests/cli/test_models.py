"""The commands that list networks and draw one."""

import json

from PIL import Image

from keras_resnet.cli import main as keras_resnet
from keras_resnet.cli import recipes
from keras_resnet.storage import append_row


def test_models_lists_what_a_pattern_selects_with_its_cost(capsys):
    assert keras_resnet.main(["models", "resnet2[0-5]", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["models"]
    assert (row["name"], row["parameters"]) == ("resnet20", 269_722)
    assert row["feature_maps"] == [[32, 32, 16], [16, 16, 32], [8, 8, 64]]
    assert keras_resnet.main(["models", "resnet2[0-5]"]) == 0
    assert "269,722" in capsys.readouterr().out
    assert keras_resnet.main(["models", "wrn_*", "--names"]) == 0
    assert capsys.readouterr().out.split() == ["wrn_16_4", "wrn_16_8", "wrn_28_10", "wrn_40_2"]


def test_plot_writes_a_picture(tmp_path, capsys):
    path = tmp_path / "network.png"
    assert keras_resnet.main(["plot", "resnet8", str(path)]) == 0
    with Image.open(path) as image:
        assert image.width > 1000
    assert str(path) in capsys.readouterr().out


def test_mistakes_are_answered_in_one_line(tmp_path, capsys):
    for arguments, words in (
        (["models", "resnt20"], "'resnet20'"),
        (["plot", "resnt20"], "'resnet20'"),
        (["plot", "resnet8", "network.jpg"], "PNG"),
        (["plot", "resnet8", str(tmp_path / "nowhere" / "a.png")], "folder must exist"),
    ):
        assert keras_resnet.main(arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_recipes_are_listed_and_shown(capsys):
    assert keras_resnet.main(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert "he2015" in shown
    assert "91.25 %" in shown
    assert keras_resnet.main(["recipes", "wrn"]) == 0
    shown = capsys.readouterr().out
    assert "arXiv:1605.07146" in shown
    assert "* decay_factor           0.2" in shown
    assert "  momentum_form          nesterov" in shown
    assert keras_resnet.main(["recipes", "wrn", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["milestones"] == "0.3,0.6,0.8"
    assert keras_resnet.main(["recipes", "wnr"]) == 2
    assert "Closest: 'wrn'" in capsys.readouterr().err


def test_a_recipe_shows_what_was_measured_with_it(tmp_path, monkeypatch, capsys):
    columns = {"dataset": "d", "model": "m", "seed": "0", "epochs": "9", "test_accuracy": "0.9", "hardware": "h"}
    for recipe, accuracy in (("wrn", "0.951"), ("wrn_other", "0.1")):
        command = f"python train.py --recipe {recipe} --dataset d"
        row = {"command": command, **columns, "test_accuracy": accuracy, "date": "2026-11-25"}
        append_row(tmp_path / "a.csv", row)
    append_row(tmp_path / "b.csv", {"method": "gradcam"})
    for mark, accuracy in (("60", "0.5"), ("120", "0.6")):
        command = "python benchmark.py budget --contestants wrn pytorch"
        row = {"command": command, **columns, "contestant": "wrn", "mark_seconds": mark, "test_accuracy": accuracy}
        append_row(tmp_path / "c.csv", {**row, "date": "2026-11-26"})
        append_row(tmp_path / "c.csv", {**row, "contestant": "pytorch", "date": "2026-11-26"})
    for seed in "01":
        append_row(tmp_path / "d.csv", {"command": "python train.py", **columns, "seed": seed, "date": "2026-11-27"})
    monkeypatch.setattr(recipes, "RESULTS", tmp_path)
    assert keras_resnet.main(["recipes", "wrn"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("measured")]
    assert lines == [
        "measured: 95.10% test accuracy on d, m, 9 epochs, seed 0 (h, 2026-11-25)",
        "measured: 60.00% test accuracy on d, m, 9 epochs, seed 0 (h, 2026-11-26)",  # at the end of its time
    ]
    assert keras_resnet.main(["recipes", "quick", "--json"]) == 0  # what train.py goes by where none is named
    assert [row["seed"] for row in json.loads(capsys.readouterr().out)["measured"]] == ["0", "1"]
    monkeypatch.setattr(recipes, "RESULTS", tmp_path / "absent")
    assert keras_resnet.main(["recipes", "wrn", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == []
