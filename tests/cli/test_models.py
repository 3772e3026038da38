"""The commands that list networks and draw one."""

import json
import subprocess
import sys

from PIL import Image

from keras_resnet.cli import main as keras_resnet
from keras_resnet.cli import recipes
from keras_resnet.models import complexity
from keras_resnet.models.registry import REGISTRY
from keras_resnet.models.resnet import build_model
from keras_resnet.storage import append_row
from keras_resnet.weights.catalog import CATALOG, list_weights


def test_models_lists_what_a_pattern_selects_with_its_cost(capsys):
    assert keras_resnet.main(["models", "resnet2[0-5]", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["models"]
    assert (row["name"], row["parameters"]) == ("resnet20", 269_722)
    assert row["feature_maps"] == [[32, 32, 16], [16, 16, 32], [8, 8, 64]]
    assert keras_resnet.main(["models", "resnet2[0-5]"]) == 0
    assert "269,722" in capsys.readouterr().out
    assert keras_resnet.main(["models", "wrn_*", "--names"]) == 0
    assert capsys.readouterr().out.split() == ["wrn_16_4", "wrn_16_8", "wrn_28_10", "wrn_40_2"]


def listed(capsys, *arguments):
    assert keras_resnet.main(["models", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["models"]


def test_networks_are_sorted_and_chosen_by_what_they_cost(capsys):
    rows = listed(capsys, "resnet?8", "--sort", "params")
    assert [row["name"] for row in rows] == ["resnet18"]
    rows = listed(capsys, "resnet*_b", "--sort", "macs", "--max-params", "0.5M", "--reverse")
    assert [row["name"] for row in rows] == ["resnet32_b", "resnet20_b", "resnet8_b"]
    rows = listed(capsys, "*", "--group", "cifar v1", "--min-params", "850K", "--max-macs", "130e6", "--sort", "name")
    assert [row["name"] for row in rows] == ["resnet56", "resnet56_b"]
    assert listed(capsys, "resnet20", "--min-macs", "1G") == []
    assert keras_resnet.main(["models", "resnet20", "--min-macs", "1G"]) == 0
    assert "No network is like that." in capsys.readouterr().out


def test_names_stand_where_their_numbers_put_them(capsys):
    names = listed(capsys, "resnet*d", "--sort", "name", "--names")
    assert names[:3] == ["resnet18d", "resnet26d", "resnet34d"]
    assert listed(capsys, "resnet*d", "--sort", "name", "--names", "--reverse") == names[::-1]
    assert listed(capsys, "wrn_*", "--names", "--reverse") == ["wrn_40_2", "wrn_28_10", "wrn_16_8", "wrn_16_4"]


def test_networks_with_weights_show_them_best_first(capsys):
    names = listed(capsys, "resnet[123]*", "--sort", "top1", "--names")
    accuracies = [max_top1(name) for name in names]
    known = [value for value in accuracies if value is not None]
    assert known == sorted(known, reverse=True)
    assert accuracies[len(known) :] == [None] * (len(names) - len(known))  # CIFAR's and those without, last
    assert names[0] == "resnet200d"
    assert listed(capsys, "resnet[123]*", "--sort", "top1", "--names", "--reverse")[len(known) :] == names[len(known) :]
    pretrained = listed(capsys, "resnet20*", "--pretrained", "--max-params", "1M")
    assert [row["name"] for row in pretrained] == ["resnet20"]
    assert pretrained[0]["top1"] is None
    assert pretrained[0]["weights"][0]["data_set"] == "CIFAR-10"
    assert keras_resnet.main(["models", "resnet18", "--weights"]) == 0
    shown = capsys.readouterr().out
    for tag in list_weights("resnet18"):
        assert tag in shown
    (line,) = (line for line in shown.splitlines() if "fb_swsl" in line)
    assert ("73.29" in line, "CC-BY-NC-4.0" in line) == (True, True)


def max_top1(name):
    found = [entry.top1 for entry in CATALOG if entry.model == name and entry.classes == 1000 and entry.top1]
    return max(found, default=None)


def test_the_whole_table_builds_nothing():
    code = (
        "import sys; from keras_resnet.cli import main; code = main.main(['models', '--sort', 'macs', '--weights']); "
        "sys.exit(code or any(name in sys.modules for name in ('keras', 'tensorflow')))"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert len([line for line in shown.splitlines() if not line.startswith("  ")]) == 1 + len(REGISTRY)


def test_a_network_of_ones_own_is_shown_and_drawn(tmp_path, capsys, monkeypatch):
    path = tmp_path / "mine.json"
    path.write_text('{"base": "resnet20", "shortcut": "projection"}')
    (row,) = listed(capsys, str(path))
    expected = complexity.complexity(build_model("resnet20_b"))
    assert (row["name"], row["parameters"], row["weights"]) == ("mine", expected.parameters, [])
    monkeypatch.chdir(tmp_path)
    assert keras_resnet.main(["plot", str(path)]) == 0
    assert (tmp_path / "mine.png").is_file()


def test_plot_writes_a_picture(tmp_path, capsys):
    path = tmp_path / "network.png"
    assert keras_resnet.main(["plot", "resnet8", str(path)]) == 0
    with Image.open(path) as image:
        assert image.width > 1000
    assert str(path) in capsys.readouterr().out


def test_mistakes_are_answered_in_one_line(tmp_path, capsys):
    for arguments, words in (
        (["models", "resnt20"], "'resnet20'"),
        (["models", "absent.json"], "Cannot read the network absent.json"),
        (["models", "--group", "ResNeXr"], "'resnext'"),
        (["models", "--sort", "parms"], "'params'"),
        (["models", "--max-params", "30X"], "--max-params must be a number like"),
        (["models", "--max-params", "-3"], "--max-params"),
        (["models", "--max-params", "1e999"], "--max-params must be a number like"),
        (["models", "--min-macs", "2G", "--max-macs", "1G"], "--min-macs must be at most --max-macs"),
        (["models", "--max-macs", "1G", "--min-top1", "80"], "'--min-params'"),
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
