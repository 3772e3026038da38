"""How many images a second the pipeline alone delivers: what a training step must wait for at most."""

import statistics
import time

from keras_resnet.data.batches import steps_per_epoch, training_batches
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.splits import Split
from keras_resnet.errors import UserError


def pipeline_images_per_second(
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    augmentation: str = "none",
    warmup_epochs: int = 1,
    repeats: int = 3,
    seconds: float = 1.0,
    seed: int = 0,
) -> float:
    """Measures the training pipeline without a network.

    Args:
        split: The training examples.
        preprocessing: The network's input.
        batch_size: Examples a batch.
        augmentation: What `parse_augmentation` reads.
        warmup_epochs: Epochs before the clock starts: the first decodes, and tf.data finds its number of threads.
        repeats: How often is measured.
        seconds: How long each measurement lasts at least, over as many epochs as that takes. An epoch of a small
            split would be over while its batches still come out of the prefetch buffer.
        seed: What order and augmentation depend on.

    Returns:
        Images a second of wall-clock time, the median of the measurements.

    Raises:
        UserError: Nothing is measured, or the batch is larger than the split.
    """
    if repeats < 1 or warmup_epochs < 0 or seconds <= 0:
        raise UserError(
            "A measurement needs at least one repeat of more than 0 seconds, "
            f"got {repeats} of {seconds} s after {warmup_epochs} warm-up epochs."
        )
    batches = iter(
        training_batches(
            split,
            preprocessing,
            batch_size=batch_size,
            seed=seed,
            epochs=2**31 - 1,
            augmentation=augmentation,
        )
    )
    for _ in range(warmup_epochs * steps_per_epoch(split, batch_size)):
        next(batches)
    rates = []
    for _ in range(repeats):
        count, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            next(batches)
            count += batch_size
        rates.append(count / elapsed)
    return statistics.median(rates)
