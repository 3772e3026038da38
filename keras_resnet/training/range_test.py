"""A learning rate found by trying: the rate rises from step to step until the loss no longer falls.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186, section 3.3; here the rate rises
exponentially. Nothing is written but the picture that is asked for.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.backends import require_backend
from keras_resnet.data.scanning import named_unreadable_files
from keras_resnet.distribution import create_strategy
from keras_resnet.errors import UserError
from keras_resnet.models.registry import get_config
from keras_resnet.storage import atomic_file
from keras_resnet.training.callbacks import ReraiseInterrupts, hold_values
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.setup import prepare

# Lowest and highest rate of each optimizer: what is of use lies well inside.
RANGES = {"sgd": (1e-5, 10.0), "lamb": (1e-5, 10.0), "adamw": (1e-6, 1.0), "muon": (1e-6, 1.0), "lion": (1e-7, 0.1)}
UPDATES = 200
PICTURES = (".png", ".svg")

# The part of the mean that an update keeps: it looks back over some ten updates, a third of a decade. Before so many
# it is that of a few batches, which says nothing.
SMOOTHING = 0.9
SPAN = 10
# The test ends where the smoothed loss has risen by this part of what it had fallen, once it had fallen by a tenth.
RISEN = 0.75
FALLEN = 0.1


@dataclass(frozen=True)
class RangeTest:
    """What a range test saw and what follows from it.

    Attributes:
        rates: The rate of each update, ascending.
        losses: The training loss that each met, before it was made.
        smoothed: The same as a bias-corrected exponential mean.
        lowest: The rate at which the smoothed loss was lowest.
        steepest: The rate at which it fell fastest over the logarithm of the rate.
        suggested: A tenth of the rate at the lowest loss.
        diverged: Whether the loss rose so far that the test ended before the highest rate.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    lowest: float
    steepest: float
    suggested: float
    diverged: bool


def find_learning_rate(recipe: Recipe, *, report: Callable[[str], None] = print) -> RangeTest:
    """Trains a network for at most `UPDATES` updates whose rate rises, and suggests a rate for its training.

    Args:
        recipe: Every setting; its rate and schedule do not count.
        report: Takes lines for a person.

    Returns:
        What was seen.

    Raises:
        UserError: A setting or the data is wrong, or the loss never fell.
    """
    require_backend()
    get_config(recipe.model)
    if recipe.learning_rate_scaling != "off":
        raise UserError("A learning rate search scales no rates, got learning_rate_scaling linear. Leave it out.")
    low, high = RANGES[recipe.optimizer]
    strategy = create_strategy(recipe.devices)
    setup = prepare(recipe, strategy, learning_rate=ExponentialRise(low, high, UPDATES), report=report)
    recipe, data = setup.recipe, setup.data
    steps = UPDATES * recipe.accumulate
    batches = setup.batches(epochs=math.ceil(steps / setup.steps))
    watch = _Watch(recipe.accumulate)
    interrupts = ReraiseInterrupts()
    callbacks = [interrupts, setup.freezing, watch]
    with named_unreadable_files(data.train), interrupts:
        setup.twin.fit(batches, steps_per_epoch=steps, callbacks=callbacks, shuffle=False, verbose=0)
    rates = low * (high / low) ** (np.arange(UPDATES) / (UPDATES - 1))
    return analyse(rates[: len(watch.losses)], watch.losses)


class ExponentialRise(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that grows by the same factor at every update.

    Args:
        low: The rate of the first update.
        high: That of the last one.
        updates: How many there are.
    """

    def __init__(self, low: float, high: float, updates: int):
        super().__init__()
        self.low, self.high, self.updates = low, high, updates

    def __call__(self, step: Any) -> Any:
        """Returns the rate, a float32 scalar tensor, of an update counted from 0."""
        part = keras.ops.cast(step, "float32") / (self.updates - 1)
        return self.low * keras.ops.exp(math.log(self.high / self.low) * part)

    def get_config(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "updates": self.updates}


def smooth(losses: Any, keep: float = SMOOTHING) -> np.ndarray:
    """Returns the exponential mean of losses, corrected for its start at 0 (Kingma & Ba 2015, arXiv:1412.6980).

    Args:
        losses: [N].
        keep: The part of the mean that a value leaves, 0..1.

    Returns:
        float64 [N].
    """
    mean, means = 0.0, []
    for count, loss in enumerate(losses, start=1):
        mean = keep * mean + (1.0 - keep) * float(loss)
        means.append(mean / (1.0 - keep**count))
    return np.asarray(means)


def has_diverged(smoothed: np.ndarray) -> bool:
    """Whether the last of the smoothed losses [N] is back near where they began, after they had fallen."""
    if len(smoothed) <= SPAN:
        return False
    start, lowest = smoothed[SPAN - 1], smoothed[SPAN - 1 :].min()
    return bool(lowest < (1 - FALLEN) * start and smoothed[-1] - lowest > RISEN * (start - lowest))


def analyse(rates: Any, losses: Any) -> RangeTest:
    """Reads a rate off the losses of a range test.

    Args:
        rates: [N], ascending by a constant factor.
        losses: [N]; the last one may not be finite.

    Returns:
        The test with its suggestion.

    Raises:
        UserError: The loss never fell.
    """
    rates, losses = np.asarray(rates, np.float64), np.asarray(losses, np.float64)
    finite = int(np.argmin(np.isfinite(losses))) if not np.isfinite(losses).all() else len(losses)
    smoothed = smooth(losses[:finite])
    first = min(SPAN, finite) - 1
    bottom = first + int(np.argmin(smoothed[first:])) if finite else first
    if bottom == first:
        raise UserError(
            f"The loss must fall at some rate, but between {rates[0]:.2g} and {rates[-1]:.2g} it only rose. "
            "Check data and recipe."
        )
    # Slopes between neighbours are noise: they are taken over the span that the mean looks back.
    ends = np.arange(first + 1, bottom + 1)
    starts = np.maximum(ends - SPAN, first)
    steepest = int(np.argmax(smoothed[starts] - smoothed[ends]))
    return RangeTest(
        rates=tuple(rates[:finite].tolist()),
        losses=tuple(losses[:finite].tolist()),
        smoothed=tuple(smoothed.tolist()),
        lowest=float(rates[bottom]),
        steepest=float(rates[(starts[steepest] + ends[steepest]) // 2]),
        suggested=float(rates[bottom]) / 10,
        diverged=finite < len(losses) or has_diverged(smoothed),
    )


def draw(test: RangeTest, path: str | os.PathLike[str]) -> None:
    """Draws the loss over the rate.

    Args:
        test: What was seen.
        path: A .png or .svg file; replaced when it exists.

    Raises:
        UserError: The name has another ending, or the folder cannot be written.
    """
    check_picture(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(test.rates, test.losses, color="0.75", linewidth=1, label="loss of each update")
    axes.plot(test.rates, test.smoothed, color="C0", linewidth=2, label="smoothed")
    for rate, style, name in (
        (test.suggested, "-", "suggested"),
        (test.steepest, "--", "steepest"),
        (test.lowest, ":", "lowest"),
    ):
        axes.axvline(rate, color="C3", linestyle=style, linewidth=1.2, label=f"{name}: {rate:.2g}")
    axes.set_xscale("log")
    # The last values of a diverging loss would flatten all others.
    start, bottom = test.smoothed[0], min(test.smoothed)
    margin = max(start - bottom, 1e-6)
    axes.set_ylim(bottom - 0.3 * margin, start + 1.5 * margin)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.legend(loc="upper left", fontsize="small")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix[1:].lower(), dpi=120)


def check_picture(path: str | os.PathLike[str]) -> None:
    """Raises the UserError for a picture whose name has another ending than .png or .svg."""
    if Path(path).suffix.lower() not in PICTURES:
        raise UserError(f"The picture's name must end in {' or '.join(PICTURES)}, got {Path(path).name!r}.")


class _Watch(keras.callbacks.Callback):
    """Keeps the loss of each update and stops when it has diverged.

    Attributes:
        losses: One an update: the mean over the steps that it is made of.
    """

    def __init__(self, accumulate: int):
        super().__init__()
        self.losses: list[float] = []
        self._accumulate, self._steps = accumulate, []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._steps.append(float(logs["loss"]))
        hold_values(self.model)
        self.model.reset_metrics()  # they are means over the epoch; each step counts for itself here
        if len(self._steps) < self._accumulate:
            return
        self.losses.append(float(np.mean(self._steps)))
        self._steps = []
        self.model.stop_training = not math.isfinite(self.losses[-1]) or has_diverged(smooth(self.losses))
