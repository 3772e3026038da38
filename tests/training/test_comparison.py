import json
import subprocess
import sys

import numpy as np
import pytest

from keras_resnet.cli import main
from keras_resnet.storage import write_json
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.runs import write_metrics


def invent(path, *, epochs, top1=None, versions=None, **settings):
    """Writes what a training leaves."""
    path.mkdir()
    recipe = Recipe(**{"epochs": 4, **settings})
    write_json(path / "recipe.json", {"settings": recipe.to_dict(), "versions": versions or {"keras": "3.15.1"}})
    rows = [
        {
            "epoch": epoch,
            "learning_rate": 0.1 / epoch,
            "loss": 1 / epoch,
            "accuracy": 1 - 0.5 / epoch,
            "val_loss": 1.5 / epoch,
            "val_accuracy": 0.5 if epoch == 3 else 0.4,
            "images_per_second": 100,
            "seconds": 1.5,
        }
        for epoch in range(1, epochs + 1)
    ]
    if rows:
        write_metrics(path / "metrics.csv", rows)
    if top1 is not None:
        write_json(
            path / "test_metrics.json",
            {"top1": top1, "best_epoch": 3, "training_seconds": 6.5, "training_cpu_seconds": 9.0},
        )
    return path


@pytest.fixture
def runs(tmp_path):
    return [
        str(invent(tmp_path / "first <b> & 'co'", epochs=4, top1=0.9)),
        str(invent(tmp_path / "second", epochs=4, top1=0.95, seed=7, versions={"keras": "3.16.0"})),
        str(invent(tmp_path / "half", epochs=3, dataset="folder:<i>x</i>")),
        str(invent(tmp_path / "begun", epochs=0)),
    ]


def test_results_are_those_of_the_files(runs, capsys):
    assert main.main(["compare", *runs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["state"] for run in found["runs"]] == ["finished", "finished", "unfinished", "unfinished"]
    assert [run["test_accuracy"] for run in found["runs"]] == [0.9, 0.95, None, None]
    assert [run["best_epoch"] for run in found["runs"]] == [3, 3, 3, None]
    assert [run["validation_accuracy"] for run in found["runs"]] == [0.5, 0.5, 0.5, None]
    assert [run["epochs"] for run in found["runs"]] == [4, 4, 3, 0]
    assert [run["seconds"] for run in found["runs"]] == [6.5, 6.5, 4.5, 0]
    assert found["differences"] == {
        "dataset": ["digits", "digits", "folder:<i>x</i>", "digits"],
        "seed": [0, 7, 0, 0],
        "keras": ["3.15.1", "3.16.0", "3.15.1", "3.15.1"],
    }


def test_tables_are_printed(runs, capsys):
    assert main.main(["compare", *runs]) == 0
    results, differences = capsys.readouterr().out.strip().split("\n\n")
    assert [line.split("  ")[0] for line in results.splitlines()] == [
        "run",
        "first <b> & 'co'",
        "second",
        "half",
        "begun",
    ]
    assert "95.00%" in results.splitlines()[2]
    assert "unfinished" in results.splitlines()[3]
    assert [line.split()[0] for line in differences.splitlines()] == ["setting", "dataset", "seed", "keras"]
    assert main.main(["compare", runs[0], runs[0]]) == 0
    assert "the same in all runs" in capsys.readouterr().out


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_from_disk_whole(runs, browser, tmp_path, width):
    page = tmp_path / "compare.html"
    assert main.main(["compare", *runs, *[runs[1]] * 8, "--output", str(page)]) == 0  # more runs than colours
    assert browser.problems_at(page, width) == []
    assert browser.run("return document.querySelectorAll('b, i').length") == 0
    assert browser.run("return document.querySelectorAll('svg').length") == 10
    accuracies = browser.run(
        "return [...document.querySelectorAll('#results tbody tr')].map(r => r.cells[1].textContent)"
    )
    assert accuracies[:4] == ["90.00%", "95.00%", "unfinished", "unfinished"]


def test_curves_by_time_lie_at_the_sums_of_the_epochs(runs, tmp_path):
    import re

    page = tmp_path / "compare.html"
    assert main.main(["compare", runs[0], "--output", str(page)]) == 0
    charts = re.findall(r"<strong>Validation loss</strong>.*?</svg>", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(charts) == 2
    for chart, expected in zip(charts, ([1, 2, 3, 4], [1.5, 3, 4.5, 6]), strict=True):
        path = re.search(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--series-0\)', chart)[1]
        drawn = np.array(re.findall(r"([-\d.]+) ([-\d.]+)", path), float)
        assert len(drawn) == 4
        # Both stretch evenly over the paper, which is written with six decimals.
        slope, start = np.polyfit(expected, drawn[:, 0], 1)
        np.testing.assert_allclose(drawn[:, 0], slope * np.array(expected) + start, atol=1e-4)
        ticks = {
            float(text): float(x)
            for x, text in re.findall(r'middle; fill: var\(--faint\)" x="([\d.]+)"[^>]*>([\d.]+)<', chart)
        }
        assert len(ticks) >= 2
        for value, x in ticks.items():
            assert x == pytest.approx(slope * value + start, abs=1e-3)


@pytest.mark.parametrize("damage", ["gone", "empty", "metrics"])
def test_what_is_no_run_is_refused(runs, tmp_path, capsys, damage):
    path = tmp_path / "other"
    if damage != "gone":
        path.mkdir()
    if damage == "metrics":
        write_json(path / "recipe.json", {"settings": {}})
        (path / "metrics.csv").write_text("epoch,loss\n1,")
    assert main.main(["compare", runs[0], str(path), "--output", str(tmp_path / "c.html")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "is not a run's metrics" in err if damage == "metrics" else "A run is a directory with recipe.json" in err
    assert not (tmp_path / "c.html").exists()


def test_comparing_needs_no_tensorflow(runs, tmp_path):
    code = """
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None  # an import of either fails
from keras_resnet.cli import main
sys.exit(main.main(["compare", *sys.argv[1:]]))
"""
    arguments = [*runs, "--output", str(tmp_path / "c.html")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, timeout=120)
