import csv
import json
import re
import shlex
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from keras_resnet.artifact import artifact_of
from keras_resnet.cli import main
from keras_resnet.cli import train as train_script
from keras_resnet.data.dataset import DatasetSpec
from keras_resnet.data.sources import load_source
from keras_resnet.errors import UserError
from keras_resnet.evaluation import calibration_bins, evaluate_predictions, predict_split
from keras_resnet.models.resnet import build_model
from keras_resnet.storage import write_json
from keras_resnet.training import callbacks, trainer
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.records import changed_settings, read_record, repeating_command
from keras_resnet.training.report import (
    PAIRS,
    most_confident_mistakes,
    most_confused_pairs,
    rewrite_report,
    write_report,
)
from keras_resnet.training.runs import RunDirectory, write_metrics
from keras_resnet.training.timing import measure_input, parts_of_time
from keras_resnet.training.trainer import train

# What HTML, matplotlib's formulas and format strings must not take for their own.
LABELS = ("<b>bold</b>", "a & b", "\"double\" 'single' $x^2$ {{ 7 * 7 }}")
EPOCHS = 3


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data") / "<i>data & 'co'"
    folder.mkdir()

    def draw(count):
        return random.integers(0, 256, (count, 8, 8, 1)).astype("uint8"), np.arange(count) % 3

    arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), (*draw(70), *draw(31)), strict=True))
    np.savez(folder / "data.npz", labels=np.array(LABELS), **arrays)
    return Recipe(dataset=f"npz:{folder}/data.npz", epochs=EPOCHS, batch_size=16, augmentation="crop", seed=3)


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    """A finished run that was interrupted, and begun before runs recorded what they are based on."""
    root = tmp_path_factory.mktemp("runs & <u>")
    places = {"name": "r<s>", "runs": root, "saved_models": root / "s", "report": lambda line: None}
    with pytest.MonkeyPatch.context() as patch:
        steps = iter(range(4))

        def interrupt(self, batch, logs=None):
            if next(steps, None) is None:
                raise KeyboardInterrupt

        patch.setattr(callbacks.StopOnLostLoss, "on_train_batch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, **places)
    path = root / "r<s>"
    assert not (path / "report.html").exists()
    stored = json.loads((path / "recipe.json").read_text())
    assert stored.pop("based_on") == "quick"
    write_json(path / "recipe.json", stored)
    return train(recipe, **places, resume=True).path


@pytest.fixture(scope="module")
def page(run):
    return (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_from_disk_whole(run, browser, width):
    assert browser.problems_at(run / "report.html", width) == []
    headings = browser.run("return [...document.querySelectorAll('h2')].map(h => h.textContent)")
    assert headings == [
        "Learning curves",
        "Confusion",
        "Classes",
        "Calibration",
        "Where the time went",
        "Most confident mistakes",
        "Augmented training images",
        "Settings",
        "Repeat this run",
    ]
    assert browser.run("return document.querySelectorAll('svg').length") == 4


def test_the_browser_finds_what_is_too_wide(page, browser, tmp_path):
    file = tmp_path / "wide.html"
    file.write_text(page.replace("</body>", "<div style='width: 500px'>wide</div></body>"), encoding="utf-8")
    assert any("pixels wide" in problem for problem in browser.problems_at(file, 390))
    assert browser.problems_at(file, 1280) == []


def test_names_and_paths_are_text(run, browser):
    browser.problems(run / "report.html")
    assert browser.run("return document.querySelectorAll('b, i, u, s').length") == 0
    names = browser.run("return [...document.querySelectorAll('#classes tbody th')].map(h => h.textContent)")
    assert tuple(names) == LABELS
    assert browser.run("return document.querySelector('h1').textContent") == "r<s>"
    assert "<i>data & 'co'" in browser.run("return document.querySelector('#settings').textContent")


def test_every_figure_is_that_of_the_files(run, page, browser):
    metrics = json.loads((run / "test_metrics.json").read_text())
    browser.problems(run / "report.html")
    tiles = browser.run("return [...document.querySelectorAll('.tile .figure')].map(e => e.textContent)")
    assert tiles[:2] == [f"{metrics['top1']:.2%}", f"{metrics['best_epoch']} of {EPOCHS}"]
    assert browser.run("return document.querySelector('#calibration strong').textContent") == f"{metrics['ece']:.4f}"

    def cells(selector):
        rows = f"[...document.querySelectorAll('{selector} tbody tr')]"
        return browser.run(f"return {rows}.map(row => [...row.querySelectorAll('td')].map(c => c.textContent))")

    confusion = [[int(text or 0) for text in row] for row in cells(".confusion")]
    assert confusion == metrics["confusion"]

    def percent(value):
        return "–" if value is None else f"{value:.2%}"

    assert cells("#classes table") == [
        [percent(score["precision"]), percent(score["recall"]), str(score["support"])] for score in metrics["per_class"]
    ]

    with open(run / "metrics.csv") as file:
        rates = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    said = browser.run("return document.querySelector('#time').textContent")
    for rate in (np.median(rates), metrics["input_images_per_second"]):
        assert f" {rate:,.0f}" in said.replace("\n", " ")


def test_the_curves_have_every_epoch_of_a_resumed_run(run, page):
    with open(run / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == EPOCHS
    for title, columns in (("Loss", ("loss", "val_loss")), ("Accuracy", ("accuracy", "val_accuracy"))):
        svg = re.search(rf"<strong>{title}</strong>.*?</svg>", page, re.DOTALL)[0]
        for number, column in enumerate(columns):
            path = re.search(rf'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--series-{number}\)', svg)[1]
            drawn = np.array(re.findall(r"([-\d.]+) ([-\d.]+)", path), float)
            assert len(drawn) == EPOCHS
            values = np.array([float(row[column]) for row in rows])
            # Points on paper are the values moved and stretched; they are written with six decimals.
            slope, start = np.polyfit(values, drawn[:, 1], 1)
            assert slope < 0  # the SVG counts from above
            np.testing.assert_allclose(drawn[:, 1], slope * values + start, atol=1e-4)


def test_the_report_written_anew_is_the_same_but_for_its_date(run, page):
    (run / "report.html").unlink()
    assert main.main(["report", str(run)]) == 0

    def undated(text):
        return re.sub(r"<time>.*?</time>", "", text)

    assert undated((run / "report.html").read_text(encoding="utf-8")) == undated(page)


def test_a_report_without_its_data_says_so(run, recipe, capsys):
    file = Path(recipe.dataset.removeprefix("npz:"))
    file.rename(file.with_suffix(".moved"))
    try:
        assert main.main(["report", str(run)]) == 2
    finally:
        file.with_suffix(".moved").rename(file)
    err = capsys.readouterr().err
    assert f"A report needs the run's data set {recipe.dataset}. " in err
    assert err.count("\n") == 1


def test_a_report_of_other_data_is_refused(run, recipe, monkeypatch):
    data = load_source(recipe.dataset)
    changed = DatasetSpec(**{**vars(data), "fingerprint": "0" * 64})
    monkeypatch.setattr("keras_resnet.training.report.load_splits", lambda recipe: changed)
    with pytest.raises(UserError, match="has changed since"):
        rewrite_report(run)


def test_what_is_no_finished_run_is_refused(tmp_path, capsys):
    assert main.main(["report", str(tmp_path)]) == 2
    assert "A run is a directory with recipe.json" in capsys.readouterr().err
    write_json(tmp_path / "recipe.json", {"settings": {}})
    with pytest.raises(UserError, match="is unfinished"):
        rewrite_report(tmp_path)


def test_a_report_that_fails_costs_a_line_and_not_the_training(recipe, run, tmp_path, monkeypatch):
    # All epochs are done: what is left is to evaluate, to export (not here, which is quicker) and to report.
    monkeypatch.setattr(trainer, "_export", lambda *arguments: None)
    again = RunDirectory(shutil.copytree(run, tmp_path / "r"))
    again.test_metrics.unlink()
    again.report.unlink()

    def fails(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keras_resnet.training.report.write_report", fails)
    lines = []
    train(recipe, name="r", runs=tmp_path, saved_models=tmp_path / "s", report=lines.append)
    assert [line for line in lines if "report.html" in line] == [
        "report.html was not written ([Errno 28] No space left on device). Try again: "
        f"python -m keras_resnet report {again.path}"
    ]
    assert again.is_finished
    assert not again.report.exists()
    metrics, expected = (json.loads((path / "test_metrics.json").read_text()) for path in (again.path, run))
    assert metrics["confusion"] == expected["confusion"]


def invented_run(path, classes):
    """A run whose network has not learnt anything, of many classes with long names."""
    random = np.random.default_rng(0)
    count = 2 * classes
    labels = [f"a class called {number} of_many_that_have_a_long_name" for number in range(classes)]
    arrays = [
        part
        for size in (count, count, count)
        for part in (random.integers(0, 256, (size, 8, 8, 3)).astype("uint8"), np.arange(size) % classes)
    ]
    data = DatasetSpec.from_arrays(*arrays[:4], x_validation=arrays[4], y_validation=arrays[5], labels=labels)
    model = build_model("resnet8", input_shape=(8, 8, 3), num_classes=classes)
    artifact = artifact_of(model, data.preprocessing())
    predictions = predict_split(artifact, data.test)
    run = RunDirectory(path)
    described = {"name": "invented", **{f"{split}_images": count for split in ("training", "validation", "test")}}
    settings = Recipe(dataset="npz:" + "long/" * 40 + "x.npz", epochs=1, batch_size=4, augmentation="none").to_dict()
    write_json(run.recipe, {"settings": settings, "dataset": described, "based_on": "he2015"})
    row = {"epoch": 1, "learning_rate": 0.1, "images_per_second": 50, "seconds": 1}
    write_metrics(run.metrics, [row | dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), 0.5)])
    metrics = evaluate_predictions(*predictions, artifact.labels).to_dict()
    metrics |= {"best_epoch": 1, "validation_accuracy": 0.5, "training_seconds": 2.0, "training_cpu_seconds": 2.0}
    write_report(run, artifact=artifact, data=data, predictions=predictions, metrics=metrics)
    return run, metrics


@pytest.mark.parametrize("classes", [2, 25, 100])
def test_few_and_many_classes_fit(classes, browser, tmp_path):
    run, metrics = invented_run(tmp_path, classes)
    for width in (1280, 390):
        assert browser.problems_at(run.report, width) == []
    assert browser.run("return document.querySelectorAll('.confusion td').length") == (
        classes**2 if classes < 30 else 0
    )
    pairs = browser.run(
        "return [...document.querySelectorAll('#confusion h3 + .scroll tbody tr')].map(r => +r.cells[2].textContent)"
    )
    beside = np.array(metrics["confusion"]) * (1 - np.eye(classes, dtype=int))
    assert pairs == ([] if classes <= 10 else sorted(beside[beside > 0].tolist(), reverse=True)[:PAIRS])


def test_mistakes_and_pairs_are_the_largest():
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.55, 0.45]])
    assert most_confident_mistakes(probabilities, np.array([1, 0, 1, 0]), 5).tolist() == [0, 1]
    assert most_confident_mistakes(probabilities, np.array([1, 0, 1, 0]), 1).tolist() == [0]
    confusion = np.array([[5, 2, 0], [4, 9, 1], [0, 0, 7]])
    assert most_confused_pairs(confusion, 2) == [(1, 0, 4), (0, 1, 2)]
    assert most_confused_pairs(confusion, 9) == [(1, 0, 4), (0, 1, 2), (1, 2, 1)]


def test_calibration_bins_hold_every_example_once():
    random = np.random.default_rng(0)
    confidence = np.concatenate([random.uniform(0, 1, 500), [0.0, 0.2, 1.0]])
    correct = random.uniform(0, 1, 503) < confidence
    bins = calibration_bins(confidence, correct, bins=5)
    for one in bins:
        inside = (confidence > one.lower) & (confidence <= one.upper) | ((confidence == 0) & (one.lower == 0))
        assert one.count == inside.sum()
        assert one.confidence == pytest.approx(confidence[inside].mean())
        assert one.accuracy == pytest.approx(correct[inside].mean())
    assert sum(one.count for one in bins) == 503


def test_the_parts_of_the_time_sum_to_the_whole(run):
    record = read_record(run)
    parts = parts_of_time(record)
    # Files have times to hundredths of a second, and the whole to tenths.
    assert sum(part.seconds for part in parts) == pytest.approx(record.metrics["training_seconds"], abs=0.1)
    assert all(part.seconds >= 0 for part in parts)


def test_the_input_is_measured_alone():
    def slow():
        for _ in range(6):
            time.sleep(0.02)
            yield np.zeros((8, 2)), None

    # A batch of 8 comes every 0.02 s or later.
    assert 0 < measure_input(slow()) <= 8 / 0.02
    assert measure_input(iter([(np.zeros((8, 2)), None)])) is None


@pytest.mark.parametrize(
    ("based_on", "changes"),
    [
        ("quick", {}),
        ("quick", {"epochs": 3, "milestones": "0.1,0.2", "dataset": "folder:a b's", "ema_decay": 0.9}),
        ("he2015", {}),
        ("he2015", {"seed": 4, "weights": "-x"}),
        ("imagenet_90", {"image_size": None, "last_gamma": None}),  # no flag says None
        ("my recipe.json", {"learning_rate": 0.3}),
    ],
)
def test_the_command_gives_the_settings_again(based_on, changes, tmp_path):
    from keras_resnet.training.named_recipes import RECIPES

    start = RECIPES[based_on].settings if based_on in RECIPES else {}
    recipe = Recipe.from_dict({**start, **changes})
    write_json(tmp_path / "recipe.json", {"settings": recipe.to_dict(), "based_on": based_on})
    record = read_record(tmp_path)
    python, script, *flags = shlex.split(repeating_command(record))
    assert (python, script) == ("python", "train.py")
    arguments = train_script.build_parser().parse_args(flags)
    assert train_script._recipe(arguments)[0] == recipe
    assert arguments.name == tmp_path.name
    assert {name: ours for name, (ours, _) in changed_settings(record).items()}.items() >= changes.items()
