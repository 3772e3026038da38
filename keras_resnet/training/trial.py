"""A training tried out: a few real steps, and what the whole of it would take. Leaves no file behind."""

import dataclasses
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.backends import TENSORFLOW, backend, require_backend
from keras_resnet.data.feeding import evaluation_batches
from keras_resnet.data.scanning import named_unreadable_files
from keras_resnet.distribution import create_strategy, peak_gpu_memory
from keras_resnet.models.complexity import Complexity, complexity
from keras_resnet.models.config_files import network_name
from keras_resnet.storage import check_could_write
from keras_resnet.training.callbacks import StopOnLostLoss
from keras_resnet.training.checkpoints import KEPT, TrainingState, newest_epoch
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.runs import (
    RunDirectory,
    check_free,
    check_run,
    check_unchanged,
    default_name,
    find_network,
)
from keras_resnet.training.setup import Setup, describe, disk_needs, prepare
from keras_resnet.weights.catalog import find_weights
from keras_resnet.weights.download import cache_directory, matches_digest
from keras_resnet.weights.loading import is_tag

# The first steps trace and compile; those behind them count: at least three, at most so many or so long.
WARMUP_STEPS = 2
MIN_STEPS = 3
MAX_STEPS = 20
MAX_SECONDS = 5.0


@dataclass(frozen=True)
class Trial:
    """What a training was found to be and to take; all times in seconds.

    Attributes:
        recipe: The settings, the batch no larger than the data.
        run: The run directory that it would have.
        complexity: What the network costs.
        dataset: What recipe.json says about the data set.
        steps: Steps per epoch.
        epochs_done: Epochs that an interrupted run has behind it.
        measured_steps: How many training steps were timed.
        start_seconds: From the beginning to the first timed step: data, network, compilation.
        step_seconds: Mean time of a training step with its input, as it trains.
        input_seconds: Mean time of a batch of the input pipeline alone, nothing beside it.
        validation_seconds: Median time of a batch of validation.
        training_seconds: Estimate for the steps of all epochs that are left.
        evaluation_seconds: Estimate for validation after each of them, and the test at the end.
        peak_memory_bytes: The most main memory that this process held.
        peak_gpu_bytes: The most memory that the backend held on the first GPU; None without one.
        checkpoint_bytes: Size of one checkpoint.
        disk_bytes: What run directory and served model will hold at the end, logs left out.
    """

    recipe: Recipe
    run: Path
    complexity: Complexity
    dataset: dict[str, Any]
    steps: int
    epochs_done: int
    measured_steps: int
    start_seconds: float
    step_seconds: float
    input_seconds: float
    validation_seconds: float
    training_seconds: float
    evaluation_seconds: float
    peak_memory_bytes: int
    peak_gpu_bytes: int | None
    checkpoint_bytes: int
    disk_bytes: int

    @property
    def total_seconds(self) -> float:
        """Estimate for the whole run, but for its export."""
        return self.start_seconds + self.training_seconds + self.evaluation_seconds

    def to_dict(self) -> dict[str, Any]:
        """Returns it as a dictionary that JSON can hold."""
        return {**dataclasses.asdict(self), "run": str(self.run), "total_seconds": self.total_seconds}


def try_training(
    recipe: Recipe,
    *,
    name: str | None = None,
    runs: str | os.PathLike[str] = "runs",
    saved_models: str | os.PathLike[str] = "saved_models",
    resume: bool = False,
    overwrite: bool = False,
    report: Callable[[str], None] = print,
) -> Trial:
    """Takes the first steps of a training and measures them; what `train` refuses is refused here.

    Args:
        recipe: Every setting.
        name: Name of the run; default: data set, model and seed.
        runs: Folder of the run directories.
        saved_models: Folder of the exported models.
        resume: As in `train`.
        overwrite: As in `train`; nothing is removed here.
        report: Takes lines for a person.

    Returns:
        What was measured.

    Raises:
        UserError: As `train` would.
    """
    began = time.perf_counter()
    require_backend()
    run = RunDirectory(Path(runs) / (name or default_name(recipe)))
    network = find_network(recipe, run, report=report)
    check_run(run, Path(saved_models) / run.path.name, resume=resume, overwrite=overwrite)
    strategy = create_strategy(recipe.devices)
    stored_weights = recipe.weights
    setup = prepare(_without_download(recipe, report), strategy, config=network, report=report)
    recipe = dataclasses.replace(setup.recipe, weights=stored_weights)
    run_bytes, served_bytes = disk_needs(setup.model)
    if backend() == TENSORFLOW:
        check_could_write(saved_models, served_bytes)
    check_could_write(run.path, run_bytes)
    check_free(run)
    is_begun = not overwrite and check_unchanged(
        run, recipe, network=network, dataset=describe(setup.data), resume=resume, report=report
    )
    done = newest_epoch(run.checkpoints) if is_begun else 0

    data = setup.data
    with named_unreadable_files(data.train, data.validation):
        trained, started = _train_some(setup, run)
        waited = _read_some(setup)
        validated = _validate_some(setup)
    step, validation = statistics.fmean(trained), statistics.median(validated)
    left = recipe.epochs - done
    batches = [math.ceil(len(split) / recipe.batch_size) for split in (data.validation, data.test)]
    variables = (*setup.twin.variables, *setup.twin.optimizer.variables)
    checkpoint = sum(math.prod(variable.shape) * np.dtype(variable.dtype).itemsize for variable in variables)
    return Trial(
        recipe=recipe,
        run=run.path,
        complexity=complexity(setup.model),
        dataset=describe(setup.data),
        steps=setup.steps,
        epochs_done=done,
        measured_steps=len(trained),
        start_seconds=started - began,
        step_seconds=step,
        input_seconds=statistics.fmean(waited),
        validation_seconds=validation,
        training_seconds=left * setup.steps * step,
        evaluation_seconds=(left * batches[0] + batches[1]) * validation,
        peak_memory_bytes=_peak_memory(),
        peak_gpu_bytes=peak_gpu_memory(),
        checkpoint_bytes=checkpoint,
        # The newest ones and the best one; the network in the run, and twice in the served folder.
        disk_bytes=min(KEPT + 1, recipe.epochs) * checkpoint + 3 * 4 * setup.model.count_params(),
    )


class _Clock(keras.callbacks.Callback):
    """Times steps behind the first ones and stops when there are enough.

    Attributes:
        seconds: What each took.
        began: When the first of them began.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.began = math.inf
        self._warmups, self._last = 0, 0.0

    def is_enough(self) -> bool:
        """Counts a step that has ended; whether it was the last one."""
        now = time.perf_counter()
        if self._warmups < WARMUP_STEPS:
            self._warmups += 1
            self.began = now
        else:
            self.seconds.append(now - self._last)
        self._last = now
        enough = len(self.seconds) >= MIN_STEPS and now - self.began > MAX_SECONDS
        return enough or len(self.seconds) == MAX_STEPS

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        float(logs["loss"])  # waits for the step
        self.model.stop_training = self.is_enough()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        float(logs["loss"])
        self.model.stop_evaluating = self.is_enough()


def _batches(setup: Setup):
    # Enough for the steps that are taken, however few there are in an epoch.
    return setup.batches(epochs=WARMUP_STEPS + MAX_STEPS)


def _train_some(setup: Setup, run: RunDirectory) -> tuple[list[float], float]:
    """Seconds of some training steps, and when the first of them began."""
    clock = _Clock()
    setup.twin.fit(
        _batches(setup),
        steps_per_epoch=WARMUP_STEPS + MAX_STEPS,
        callbacks=[StopOnLostLoss(run, TrainingState), setup.freezing, clock],
        shuffle=False,
        verbose=0,
    )
    return clock.seconds, clock.began


def _read_some(setup: Setup) -> list[float]:
    """Seconds of some batches of the input, none of which the network takes."""
    clock = _Clock()
    for _ in _batches(setup):
        if clock.is_enough():
            break
    return clock.seconds


def _validate_some(setup: Setup) -> list[float]:
    clock = _Clock()
    batches = evaluation_batches(setup.data.validation, setup.preprocessing, batch_size=setup.recipe.batch_size)
    setup.twin.evaluate(batches.repeat(), steps=WARMUP_STEPS + MAX_STEPS, callbacks=[clock], verbose=0)
    return clock.seconds


def _without_download(recipe: Recipe, report: Callable[[str], None]) -> Recipe:
    """The recipe from random weights where its published ones are not in the cache yet: that costs the same time."""
    if recipe.weights is None or not is_tag(recipe.weights):
        return recipe
    published = find_weights(network_name(recipe.model), recipe.weights)
    path = cache_directory() / published.filename
    if path.is_file() and matches_digest(path, published.digest):
        return recipe
    report(f"The weights {recipe.weights} will be downloaded by the training; these steps start from random ones.")
    return dataclasses.replace(recipe, weights=None)


def _peak_memory() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes there, kilobytes elsewhere
