"""`benchmark.py budget`: the test accuracy that each contestant reaches within the same time.

The contestants train one after the other, each in a process of its own, on the same pixels: images are decoded once and
lie in memory, 8 bits a channel, before a clock starts. All training images count, those set aside for validation
included: nothing is chosen by them. The clock includes the tracing of the training step and stands still during tests;
the time of a mark includes, once, what making averaged weights ready took. Schedules run over the budget, so that each
contestant has finished its own when the time is up: a recipe whose epochs are as many as fit.

This module imports no framework: each contestant's process imports its own.
"""

import importlib
import importlib.metadata
import importlib.util
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.benchmarks.clock import Mark
from keras_resnet.data.dataset import DatasetSpec
from keras_resnet.distribution import keras_precision
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.progress import ProgressBar
from keras_resnet.training.named_recipes import RECIPES, get_named_recipe
from keras_resnet.training.recipes import Recipe

_CHUNK = 8192  # images that are decoded at a time
_PARTS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Contestant:
    """One row of the table.

    Attributes:
        train: "module:function" of (assignment, clock options).
        recipe: The named recipe that it trains by.
        framework: The package whose version counts.
    """

    train: str
    recipe: str
    framework: str = "tensorflow"


_KERAS, _TORCH = "keras_resnet.benchmarks.budget_keras", "keras_resnet.benchmarks.budget_torch"
CONTESTANTS = {
    **{name: Contestant(f"{_KERAS}:train_recipe", name) for name in RECIPES},
    "plain_keras": Contestant(f"{_KERAS}:train_plain", "quick"),
    "pytorch": Contestant(f"{_TORCH}:train", "he2015", "torch"),
}


@dataclass(frozen=True)
class Assignment:
    """What a contestant's process needs.

    Attributes:
        recipe: The settings.
        seconds: The budget.
        marks: At how many evenly spaced marks it is tested.
        folder: Where the arrays lie.
        labels: The class names.
    """

    recipe: Recipe
    seconds: float
    marks: int
    folder: Path
    labels: tuple[str, ...]


def get_contestant(name: str) -> Contestant:
    """Looks a contestant up by name; UserError where there is none, or where its framework is not installed."""
    if name not in CONTESTANTS:
        raise unknown_name("contestant", name, CONTESTANTS)
    if importlib.util.find_spec(CONTESTANTS[name].framework) is None:
        raise UserError(
            f"The contestant {name} needs the package {CONTESTANTS[name].framework}, which is not installed. "
            "Install it: pip install -r requirements-torch.txt."
        )
    return CONTESTANTS[name]


def recipe_of(name: str, *, model: str, dataset: str, seed: int) -> Recipe:
    """Returns what a contestant trains by."""
    settings = get_named_recipe(get_contestant(name).recipe).settings
    return Recipe.from_dict({**settings, "model": model, "dataset": dataset, "seed": seed})


def benchmark_budget(
    names: Sequence[str],
    *,
    dataset: str,
    model: str,
    seconds: float,
    marks: int,
    seeds: int = 1,
    is_known: Callable[[dict[str, Any]], bool] = lambda row: False,
    save: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> list[dict[str, Any]]:
    """Trains the contestants one after the other.

    Args:
        names: Rows of `CONTESTANTS`.
        dataset: A data set, as `load_source` names it.
        model: The network, one for all.
        seconds: The budget of each.
        marks: At how many evenly spaced marks each is tested.
        seeds: How often each trains, with seeds from 0.
        is_known: Whether a sitting before has the rows that begin with these columns, which are left out then.
        save: Takes the rows of each training as soon as it is done.

    Returns:
        One row a contestant, seed and mark.

    Raises:
        UserError: A name is unknown, the data is wrong, or a loss became NaN or infinite.
    """
    sittings = []
    for seed in range(seeds):
        for name in names:
            recipe = recipe_of(name, model=model, dataset=dataset, seed=seed)
            row = {
                "dataset": dataset,
                "model": model,
                "contestant": name,
                "seed": seed,
                "budget_seconds": _whole(seconds),
                "marks": marks,
            }
            if not is_known(row):
                sittings.append((row, recipe))
    rows = []
    if not sittings:
        return rows
    progress = ProgressBar(len(sittings))
    with tempfile.TemporaryDirectory() as folder:
        data = decode(dataset, Path(folder))
        for row, recipe in sittings:
            contestant = get_contestant(row["contestant"])
            assignment = Assignment(recipe, seconds, marks, Path(folder), data.labels)
            progress.begin(f"{row['contestant']}, seed {row['seed']}", int(seconds), "s")
            found = run_contestant(contestant.train, assignment, progress)
            progress.end()
            counts = len(data.train) + len(data.validation), len(data.test)
            new = [_row(row, contestant, recipe, mark, *counts) for mark in found]
            save(new)
            rows += new
    return rows


def _row(
    row: dict[str, Any], contestant: Contestant, recipe: Recipe, mark: Mark, training_images: int, test_images: int
) -> dict[str, Any]:
    return {
        **row,
        "mark_seconds": _whole(mark.mark_seconds),
        "seconds": round(mark.seconds, 2),
        "cpu_seconds": round(mark.cpu_seconds, 2),
        "epochs": round(mark.images_seen / training_images, 3),
        "images_seen": mark.images_seen,
        "test_accuracy": f"{mark.accuracy:.4f}",
        "test_images": test_images,
        "precision": keras_precision(recipe.precision),
        "framework": f"{contestant.framework} {importlib.metadata.version(contestant.framework)}",
    }


def _whole(seconds: float) -> float:
    """Milliseconds count, and whole seconds are written as such."""
    seconds = round(seconds, 3)
    return int(seconds) if seconds == int(seconds) else seconds


def decode(dataset: str, folder: Path) -> DatasetSpec:
    """Decodes a data set into arrays, which `load_arrays` reads in each contestant's process.

    Args:
        dataset: A data set, as `load_source` names it.
        folder: Where the arrays go: x_train.npy, y_train.npy, x_test.npy, y_test.npy. Validation is part of x_train.

    Returns:
        The data set.
    """
    from keras_resnet.data.reading import examples_at
    from keras_resnet.data.scanning import named_unreadable_files
    from keras_resnet.data.sources import load_source

    data = load_source(dataset)
    with named_unreadable_files(data.train, data.validation, data.test):
        for part, splits in (("train", (data.train, data.validation)), ("test", (data.test,))):
            images = np.empty((sum(map(len, splits)), *data.image_shape), np.uint8)
            first = 0
            for split in splits:
                for start in range(0, len(split), _CHUNK):
                    positions = np.arange(start, min(start + _CHUNK, len(split)))
                    pixels, _ = examples_at(split, data.preprocessing(), positions)
                    images[first : first + len(pixels)] = np.rint(pixels)
                    first += len(pixels)
            np.save(folder / f"x_{part}.npy", images)
            np.save(folder / f"y_{part}.npy", np.concatenate([split.labels for split in splits]))
    return data


def load_arrays(assignment: Assignment) -> DatasetSpec:
    """Loads what `decode` wrote. Its validation split is the test split; nobody uses it."""
    arrays = {part: np.load(assignment.folder / f"{part}.npy") for part in _PARTS}
    return DatasetSpec.from_arrays(
        **arrays, x_validation=arrays["x_test"], y_validation=arrays["y_test"], labels=assignment.labels
    )


def run_contestant(train: str, assignment: Assignment, progress: ProgressBar) -> list[Mark]:
    """Trains a contestant in a process of its own.

    Args:
        train: "module:function", see `Contestant`.
        assignment: What it gets.
        progress: Reaches the seconds that the contestant's clock shows.

    Returns:
        The marks.

    Raises:
        UserError: What the contestant raised, or its process died.
    """
    context = multiprocessing.get_context("spawn")  # a framework does not survive a fork
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_train_there, args=(train, assignment, theirs), daemon=True)
    process.start()
    theirs.close()
    marks = []
    try:
        while True:
            kind, value = ours.recv()
            if kind == "error":
                raise UserError(value)
            if kind == "done":
                return marks
            if kind == "mark":
                marks.append(value)
            else:
                progress.reach(int(value), int(assignment.seconds))
    except EOFError:
        process.join()
        raise RuntimeError(f"The process of {train} ended with exit code {process.exitcode}.") from None
    finally:
        process.terminate()
        process.join()


def _train_there(train: str, assignment: Assignment, connection: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    module, function = train.split(":")
    options = {
        "record": lambda mark: connection.send(("mark", mark)),
        "show": lambda seconds: connection.send(("seconds", seconds)),
    }
    try:
        getattr(importlib.import_module(module), function)(assignment, options)
    except UserError as error:
        connection.send(("error", str(error)))
    else:
        connection.send(("done", None))
