"""Where the time of a training went, and how fast its input alone could be."""

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keras_resnet.training.records import RunRecord

_MEASURED_SECONDS = 1.0


@dataclass(frozen=True)
class Part:
    """A part of a training's time.

    Attributes:
        name: What it was spent on.
        meaning: How the figure comes about.
        seconds: How long it took in all.
    """

    name: str
    meaning: str
    seconds: float


def parts_of_time(record: RunRecord) -> list[Part]:
    """Divides the wall time of a training's epochs.

    metrics.csv has each epoch's seconds and its rate while it trained; the rest of the epoch is validation. The first
    epoch also traces and compiles: that is what it trained longer than the median of the others.

    Args:
        record: A finished run.

    Returns:
        The parts; they sum to the run's training_seconds.
    """
    batch_size, images = record.settings["batch_size"], record.dataset["training_images"]
    per_epoch = images // batch_size * batch_size
    training = [per_epoch / rate for rate in record.column("images_per_second")]
    first, *others = training
    start = max(0.0, first - statistics.median(others)) if others else 0.0
    validation = max(0.0, sum(record.column("seconds")) - sum(training))
    rest = max(0.0, record.metrics["training_seconds"] - sum(training) - validation)
    return [
        Part("Training steps", "input, forward and backward pass, update", sum(training) - start),
        Part("Start-up", "what the first epoch trained longer than the median epoch: tracing, compiling", start),
        Part("Validation", "the rest of each epoch", validation),
        Part("Checkpoints and logs", "between the epochs", rest),
    ]


def median_rate(record: RunRecord) -> float:
    """Returns the images a second of the median epoch, while it trained."""
    return statistics.median(record.column("images_per_second"))


def measure_input(batches: Iterable[Any], *, seconds: float = _MEASURED_SECONDS) -> float | None:
    """Measures how fast batches come when nothing is done with them.

    Args:
        batches: The training's own stream.
        seconds: How long to measure.

    Returns:
        Images a second, after the first batch, which starts the pipeline; None where the stream ends before.
    """
    stream, images = iter(batches), 0
    if next(stream, None) is None:
        return None
    began = time.perf_counter()
    for batch, _ in stream:
        images += int(batch.shape[0])
        if time.perf_counter() - began > seconds:
            break
    return images / (time.perf_counter() - began) if images else None
