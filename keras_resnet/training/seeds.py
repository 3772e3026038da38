"""The same training from several seeds, and what the accuracy is over all of them."""

import dataclasses
import os
import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_resnet.backends import require_backend
from keras_resnet.distribution import create_strategy
from keras_resnet.errors import UserError
from keras_resnet.storage import read_json
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.runs import (
    RunDirectory,
    check_free,
    check_run,
    check_unchanged,
    default_name,
    find_network,
)
from keras_resnet.training.setup import describe, load_data, prepare
from keras_resnet.training.trainer import train


@dataclass(frozen=True)
class SeedRun:
    """One of the runs, as its test_metrics.json has it.

    Attributes:
        path: The run directory.
        seed: Its seed.
        test_accuracy: Top-1 accuracy on the test split, 0..1.
        test_images: How many images that is of.
        best_epoch: The epoch whose weights were kept.
        validation_accuracy: After that epoch, 0..1.
        seconds: Wall time of all epochs.
        cpu_seconds: Processor time of all epochs.
        was_finished: Whether it was there already, and was only read.
    """

    path: Path
    seed: int
    test_accuracy: float
    test_images: int
    best_epoch: int
    validation_accuracy: float
    seconds: float
    cpu_seconds: float
    was_finished: bool


def train_seeds(
    recipe: Recipe,
    count: int,
    *,
    name: str | None = None,
    runs: str | os.PathLike[str] = "runs",
    saved_models: str | os.PathLike[str] = "saved_models",
    overwrite: bool = False,
    report: Callable[[str], None] = print,
    finished: Callable[[SeedRun], Any] = lambda run: None,
) -> list[SeedRun]:
    """Trains with the seeds recipe.seed … recipe.seed + count - 1, one behind the other.

    Each run is that of `train` alone, to the last bit. The same call again reads those that are finished, resumes the
    one that was interrupted and trains the others.

    Args:
        recipe: Every setting.
        count: How many runs.
        name: The runs' name, behind which comes "-seed" and the seed; default: data set and model.
        runs: Folder of the run directories.
        saved_models: Folder of the exported models.
        overwrite: Whether runs of these names may be removed first.
        report: Takes the lines for a person.
        finished: Called with each run as soon as it is done.

    Returns:
        The runs, in the order of their seeds.

    Raises:
        UserError: As in `train`, before the first run where it can be told; or a finished run has other settings or
            data.
    """
    require_backend()
    recipes = [dataclasses.replace(recipe, seed=recipe.seed + number) for number in range(count)]
    directories = [RunDirectory(Path(runs) / seed_name(each, name)) for each in recipes]
    network = find_network(recipe, *directories, report=report)
    for run in directories:
        if overwrite or not run.is_finished:
            check_run(run, Path(saved_models) / run.path.name, resume=False, overwrite=overwrite)
    strategy = create_strategy(recipe.devices, workers=True)
    if overwrite:
        # All of them now, so that an interrupted call goes on without removing what it has trained itself.
        # Nothing is removed for a training that cannot begin.
        prepare(recipe, strategy, config=network, report=lambda line: None)
        for run in directories:
            check_free(run)
            if run.recipe.is_file():
                shutil.rmtree(run.path)
    for each, run in zip(recipes, directories, strict=True):
        if run.is_finished:
            trained, data = load_data(each, strategy, report=lambda line: None)
            check_unchanged(run, trained, network=network, dataset=describe(data), resume=True, report=report)
            del data
    done = []
    for each, run in zip(recipes, directories, strict=True):
        was_finished = run.is_finished
        if was_finished:
            report(f"{run.path} is finished: read, not trained again.")
        else:
            # Networks of the runs before would stay in memory, and their names would count on.
            keras.utils.clear_session()
            places = {"name": run.path.name, "runs": runs, "saved_models": saved_models}
            train(each, **places, overwrite=overwrite, report=report, network=network)
        done.append(_read(run, each.seed, was_finished=was_finished))
        finished(done[-1])
    return done


def seed_name(recipe: Recipe, name: str | None = None) -> str:
    """Returns the name of the run with a recipe's seed."""
    return default_name(recipe) if name is None else f"{name}-seed{recipe.seed}"


def spread(accuracies: list[float]) -> tuple[float, float]:
    """Returns mean and standard deviation (of the sample) of two values or more."""
    return statistics.fmean(accuracies), statistics.stdev(accuracies)


def _read(run: RunDirectory, seed: int, *, was_finished: bool) -> SeedRun:
    metrics = read_json(run.test_metrics)
    try:
        return SeedRun(
            path=run.path,
            seed=seed,
            test_accuracy=metrics["top1"],
            test_images=metrics["count"],
            best_epoch=metrics["best_epoch"],
            validation_accuracy=metrics["validation_accuracy"],
            seconds=metrics["training_seconds"],
            cpu_seconds=metrics["training_cpu_seconds"],
            was_finished=was_finished,
        )
    except (KeyError, TypeError):
        raise UserError(f"{run.test_metrics} is not a run's. Choose another --name or --overwrite the run.") from None
