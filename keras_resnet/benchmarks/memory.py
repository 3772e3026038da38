"""`benchmark.py memory`: the most memory that a training from a data set ever holds, beside the network alone."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from keras_resnet.errors import UserError

# So few images that what remains is the network, its training and the libraries.
NETWORK_ALONE = "shapes:count=512,size=32"


def benchmark_memory(datasets: Sequence[str], *, model: str = "resnet8") -> list[dict[str, Any]]:
    """Trains one epoch from each data set, in a process of its own and without an index from before.

    Args:
        datasets: Data sets of 32×32 images, as `load_source` names them.
        model: Network.

    Returns:
        A row for each: training images, the highest memory in use in MiB (VmHWM), and what of it is more than for a
        few images in memory.

    Raises:
        UserError: A training failed, or the system has no /proc.
    """
    measured = {dataset: _peak(dataset, model) for dataset in (NETWORK_ALONE, *datasets)}
    peaks = {dataset: round(peak / 2**20, 1) for dataset, (_, peak) in measured.items()}
    return [
        {
            # The kind alone: where it lies is of no account.
            "data": dataset.partition(":")[0],
            "model": model,
            "training_images": images,
            "peak_mib": peaks[dataset],
            # Of the rounded figures: a reader can do the same sum.
            "more_than_the_network_mib": round(peaks[dataset] - peaks[NETWORK_ALONE], 1),
        }
        for dataset, (images, _) in measured.items()
    ]


def _peak(dataset: str, model: str) -> tuple[int, int]:
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-m", __name__, dataset, model],
            env={**os.environ, "KERAS_RESNET_CACHE": cache},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode:
        raise UserError(f"A training from {dataset!r} could not be measured; the lines above say why.")
    images, peak = map(int, done.stdout.split()[-2:])
    return images, peak


def _train(dataset: str, model: str) -> None:
    import keras

    from keras_resnet.applications import create_model
    from keras_resnet.data.feeding import training_batches
    from keras_resnet.data.sources import load_source
    from keras_resnet.data.splits import steps_per_epoch

    data = load_source(dataset, image_size=32)
    network = create_model(model, input_shape=data.image_shape, num_classes=len(data.labels))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("sgd", loss)
    batches = training_batches(
        data.train, data.preprocessing(), batch_size=128, seed=0, epochs=1, augmentation=data.augmentation
    )
    network.fit(batches, steps_per_epoch=steps_per_epoch(data.train, 128), shuffle=False, verbose=0)
    with open("/proc/self/status", encoding="ascii") as file:
        peak = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    print(len(data.train), peak)


if __name__ == "__main__":
    _train(*sys.argv[1:])
