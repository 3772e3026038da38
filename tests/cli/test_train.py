import csv
import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_resnet.cli import evaluate, predict, train
from keras_resnet.training.recipes import Recipe

ROOT = Path(__file__).parents[2]
SHORT = ["--model", "resnet8", "--epochs", "2", "--batch-size", "32", "--warmup-epochs", "1"]
SMALL_IMAGES = ["--image-size", "8", "--augmentation", "none"]


def test_every_setting_is_a_flag():
    help_text = train.build_parser().format_help()
    for field in dataclasses.fields(Recipe):
        assert f"--{field.name.replace('_', '-')} " in help_text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "resnet21"], "Unknown model 'resnet21'. Closest: "),
        (["--dataset", "digts"], "'digts'. Closest: 'digits'."),
        (["--epohcs", "3"], "Unknown flag '--epohcs'. Closest: '--epochs'"),
        (["--schedule", "cosin"], "Unknown schedule 'cosin'. Closest: 'cosine'."),
        (["--epochs", "0"], "epochs must be at least 1, got 0."),
        (["--epochs", "three"], "invalid int value"),
        (["--recipe", "absent.json"], "Cannot read the recipe absent.json"),
        (["--name", "a/b"], "A run's name is the name of one folder"),
        (["--resume"], "There is no run to resume at"),
        (["--recipe", "he2051"], "Unknown recipe 'he2051'. Closest: 'he2016', 'he2015'"),
        (["--augmentation", "crp"], "'crp'. Closest: 'crop'"),
        (["--devices", "one_gpu"], "needs a GPU"),
    ],
)
def test_mistakes_are_one_line_with_exit_code_2(argv, message, tmp_path, capsys, monkeypatch):
    import tensorflow as tf

    if "one_gpu" in argv and tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    monkeypatch.chdir(tmp_path)
    assert train.main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("*.npz"))


def test_unknown_recipe_keys_name_the_closest(tmp_path, capsys):
    (tmp_path / "r.json").write_text('{"lerning_rate": 0.1}')
    assert train.main(["--recipe", str(tmp_path / "r.json")]) == 2
    assert "Unknown recipe key 'lerning_rate'. Closest: 'learning_rate'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data):
    root = tmp_path_factory.mktemp("trained")
    recipe = root / "recipe.json"
    recipe.write_text(json.dumps({"dataset": tiny_data, "augmentation": "none", "epochs": 50, "seed": 4}))
    argv = ["--recipe", str(recipe), *SHORT, "--name", "t", "--runs", str(root / "runs")]
    argv += ["--saved-models", str(root / "saved"), "--results", str(root / "results.csv")]
    assert train.main(argv) == 0
    return root


def test_flags_override_the_recipe_file(trained):
    settings = json.loads((trained / "runs" / "t" / "recipe.json").read_text())["settings"]
    assert (settings["epochs"], settings["seed"]) == (2, 4)


def test_a_result_is_a_row(trained):
    with open(trained / "results.csv") as file:
        (row,) = csv.DictReader(file)
    assert row["command"].startswith("python train.py --recipe")
    assert (row["model"], row["seed"], row["epochs"]) == ("resnet8", "4", "2")
    assert float(row["test_accuracy"]) <= 1
    assert all(row[key] for key in ("seconds", "cpu_seconds", "tensorflow", "keras", "python", "hardware", "date"))


def test_a_finished_run_is_kept(trained, capsys):
    flags = ["--recipe", str(trained / "recipe.json"), *SHORT, "--name", "t"]
    assert train.main([*flags, "--runs", str(trained / "runs"), "--saved-models", str(trained / "saved")]) == 2
    assert "is finished" in capsys.readouterr().err


def test_evaluate_writes_what_it_prints(trained, capsys, tiny_data):
    run = trained / "runs" / "t"
    assert evaluate.main([str(run)]) == 0
    assert "31 examples: top-1" in capsys.readouterr().out
    written = json.loads((run / "evaluation.json").read_text())
    test = json.loads((run / "test_metrics.json").read_text())
    assert written["confusion"] == test["confusion"]
    assert written["loss"] == pytest.approx(test["loss"], rel=1e-5)
    (run / "evaluation.json").unlink()
    saved = str(trained / "saved" / "t")
    assert evaluate.main([saved, "--dataset", tiny_data, "--json", "--batch-size", "7"]) == 0
    from_saved_model = json.loads(capsys.readouterr().out)
    # Another batch size cuts the sums differently: float32.
    assert from_saved_model["loss"] == pytest.approx(test["loss"], rel=1e-4)
    assert from_saved_model["count"] == 31
    assert evaluate.main([str(run), "--split", "train", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 98


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["absent"], "There is no model at absent"),
        (["{run}/model.keras"], "--dataset must say"),
        (["absent", "--dataset", "digits"], "There is no model at absent"),
        (["{run}", "--dataset", "digits"], "The model's classes (0, 1, 2) are not the data set's"),
        (["{run}", "--split", "tset"], "Closest: 'test'"),
        (["{run}", "--batch-size", "0"], "--batch-size must be at least 1"),
    ],
)
def test_evaluate_refuses(argv, message, trained, capsys):
    assert evaluate.main([part.format(run=trained / "runs" / "t") for part in argv]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_predict_does_the_good_files_and_reports_the_bad(trained, tmp_path, capsys):
    random = np.random.default_rng(0)
    (tmp_path / "folder").mkdir()
    for name in ("a.png", "folder/b.jpg"):
        Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "bad.png").write_bytes(b"\x89PNG broken")
    run = str(trained / "runs" / "t")
    good = [str(tmp_path / "a.png"), str(tmp_path / "folder")]
    assert predict.main([run, *good, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [good[0], str(tmp_path / "folder" / "b.jpg")]
    assert all(line.count("%") == 2 for line in lines)

    assert predict.main([run, str(tmp_path / "bad.png"), "absent.png", *good, "--json"]) == 2
    shown = capsys.readouterr()
    rows = json.loads(shown.out)["predictions"]
    assert ["error" in row for row in rows] == [True, True, False, False]
    assert shown.err.count("error: ") == 2
    assert 0 <= rows[2]["predictions"][0]["probability"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_run_that_goes_on(number, code, tmp_path, tiny_data):
    # A process started in the background of a script is born deaf to Ctrl-C.
    hearing = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    argv = [sys.executable, "-c", hearing, sys.executable, str(ROOT / "train.py"), "--dataset", tiny_data, *SHORT]
    argv += ["--epochs", "200", "--runs", str(tmp_path), "--saved-models", str(tmp_path / "s"), "--name", "r"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch   3/200"):
            process.send_signal(number)
            break
    _, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in err
    assert "Run it again and it resumes: python train.py --dataset" in err
    assert sorted((tmp_path / "r" / "checkpoints").glob("*.npz"))
    assert not list(tmp_path.rglob("*.tmp-*"))


@pytest.mark.usefixtures("bare_runs")
def test_a_recipe_is_named_and_its_flags_override_it(tiny_data, tmp_path, capsys):
    folders = ["--runs", str(tmp_path / "runs"), "--saved-models", str(tmp_path / "s"), "--name", "r"]
    small = ["--dataset", tiny_data, "--model", "resnet8", "--epochs", "1", "--batch-size", "32"]
    assert train.main(["--recipe", "he2015", *small, *SMALL_IMAGES, *folders]) == 0
    settings = json.loads((tmp_path / "runs" / "r" / "recipe.json").read_text())["settings"]
    assert (settings["schedule"], settings["weight_decay"], settings["epochs"]) == ("step", 1e-4, 1)
    assert train.main(["--recipe", "he2051", *folders]) == 2
    assert "Unknown recipe 'he2051'. Closest: 'he2016', 'he2015'" in capsys.readouterr().err
    # The recipe's warm-up is shortened, and said so; one that was asked for is not.
    assert train.main(["--recipe", "imagenet_90", *small, *SMALL_IMAGES, *folders[:-1], "short"]) == 0
    said = "warmup_epochs 5 of the recipe is longer than the run: shortened to 0.05, a twentieth of its epochs."
    assert said in capsys.readouterr().out.splitlines()
    assert train.main(["--epochs", "1", "--warmup-epochs", "5", *folders]) == 2
    assert "warmup_epochs must be at most epochs (1), got 5" in capsys.readouterr().err


def test_a_recipe_may_be_yaml(tiny_data, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("epochs: 3\nlerning_rate: 1e-2\n")
    assert train.main(["--recipe", str(tmp_path / "mine.yaml")]) == 2
    assert "mine.yaml: Unknown recipe key 'lerning_rate'. Closest: 'learning_rate'" in capsys.readouterr().err


def test_a_dry_run_shows_the_training_and_writes_nothing(tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["--dataset", tiny_data, *SHORT, "--augmentation", "none", "--dry-run"]
    assert train.main(argv) == 0
    out = capsys.readouterr().out
    for words in (
        "* batch_size             32",
        "  optimizer              sgd",
        "resnet8",
        "98 training",
        "estimated: ",
    ):
        assert words in out
    assert train.main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["changed"].keys() == {"dataset", "augmentation", "batch_size", "epochs", "warmup_epochs"}
    assert found["steps"] == 3
    assert found["total_seconds"] > 0
    assert train.main([*argv, "--image-size", "0"]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("bare_runs")
def test_several_seeds_give_mean_deviation_and_a_row_each(tiny_data, tmp_path, capsys):
    argv = ["--dataset", tiny_data, "--epochs", "1", "--batch-size", "32", "--name", "s", "--seeds", "2"]
    argv += SMALL_IMAGES
    argv += ["--runs", str(tmp_path / "runs"), "--saved-models", str(tmp_path / "s")]
    argv += ["--results", str(tmp_path / "r.csv")]
    assert train.main(argv) == 0
    out = capsys.readouterr().out.splitlines()
    assert train.main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    accuracies = [run["test_accuracy"] for run in found["runs"]]
    assert out[-1] == (
        f"test accuracy {np.mean(accuracies):.2%} ± {np.std(accuracies, ddof=1):.2%} "
        "(mean ± standard deviation of 2 runs)"
    )
    assert [line.split(":")[0] for line in out[-3:-1]] == ["seed 0", "seed 1"]
    with open(tmp_path / "r.csv") as file:
        rows = list(csv.DictReader(file))  # none more for what was only read
    assert [(row["seed"], float(row["test_accuracy"])) for row in rows] == [
        (str(seed), pytest.approx(accuracy, abs=1e-4)) for seed, accuracy in enumerate(accuracies)
    ]
    assert train.main([*argv, "--resume"]) == 2
    assert "Leave it out" in capsys.readouterr().err
    assert train.main([*argv, "--dry-run"]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_find_learning_rate_leaves_nothing_but_the_picture(tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["--dataset", tiny_data, "--batch-size", "32", "--augmentation", "none", "--find-learning-rate"]
    assert train.main([*argv, "--output", "rates.jpg"]) == 2
    assert "must end in .png or .svg" in capsys.readouterr().err
    assert train.main(argv) == 0
    out = capsys.readouterr().out
    assert "suggested: --learning-rate 0." in out
    assert list(tmp_path.iterdir()) == []
    assert train.main([*argv, "--json", "--output", "rates.png"]) == 0
    found = json.loads(capsys.readouterr().out)
    # The table marks the rates; the same seed finds the same ones again.
    assert f"--learning-rate {found['suggested']:.2g}, a tenth" in out
    assert found["suggested"] == pytest.approx(found["lowest"] / 10)
    assert [path.name for path in tmp_path.iterdir()] == ["rates.png"]
    assert train.main(["--dataset", tiny_data, "--output", "rates.png"]) == 2
    assert "--output belongs to --find-learning-rate" in capsys.readouterr().err
