"""How many images a second the pipeline alone delivers: what a training step must wait for at most."""

import statistics
import time

from keras_resnet.data.dataset import Split
from keras_resnet.data.pipeline import steps_per_epoch, training_batches
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError


def pipeline_images_per_second(
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    augmentation: str = "none",
    warmup_epochs: int = 1,
    timed_epochs: int = 3,
    seed: int = 0,
) -> float:
    """Measures the training pipeline without a network.

    Args:
        split: The training examples.
        preprocessing: The network's input.
        batch_size: Examples a batch.
        augmentation: A name of `augmentation.AUGMENTATIONS`.
        warmup_epochs: Epochs before the clock starts: the first decodes, and tf.data finds its number of
            threads.
        timed_epochs: Epochs that are timed, each by itself.
        seed: What order and augmentation hang on.

    Returns:
        Images a second of wall-clock time, the median of the timed epochs.

    Raises:
        UserError: No epoch is timed, or the batch is larger than the split.
    """
    if timed_epochs < 1 or warmup_epochs < 0:
        raise UserError(
            f"At least one epoch must be timed, got {timed_epochs} after {warmup_epochs} to warm up."
        )
    steps = steps_per_epoch(split, batch_size)
    batches = iter(
        training_batches(
            split,
            preprocessing,
            batch_size=batch_size,
            seed=seed,
            epochs=warmup_epochs + timed_epochs,
            augmentation=augmentation,
        )
    )
    rates = []
    for _ in range(warmup_epochs + timed_epochs):
        start = time.perf_counter()
        for _ in range(steps):
            next(batches)
        rates.append(steps * batch_size / (time.perf_counter() - start))
    return statistics.median(rates[warmup_epochs:])
