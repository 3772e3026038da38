"""What a training step keeps in main memory, beside what the machine has left.

Where memory is missing the system kills a process without a word, so that a batch too large has to be told before.
"""

import math
from pathlib import Path

import keras

from keras_resnet.archives import megabytes
from keras_resnet.distribution import keras_precision

_KEPT = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.MaxPooling2D,
)


def activation_bytes(model: keras.Model, *, precision: str = "float32") -> int:
    """Returns how many bytes of an image the backward pass needs at the least.

    Normalization's gradient needs what a convolution returns, and the next convolution's what an activation does. A
    step holds more for a while: of a ResNet-50 at 224 pixels in float32 these are 84 MB, and 100 MB were measured.

    Args:
        model: A functional model; where a side of its input is unknown, nothing is counted.
        precision: One of `distribution.PRECISIONS`.
    """
    shapes = [layer.output.shape[1:] for layer in model.layers if isinstance(layer, _KEPT)]
    item = 2 if keras_precision(precision).endswith("16") else 4
    return item * sum(math.prod(shape) for shape in shapes if None not in shape)


def available_bytes(root: Path = Path("/")) -> int | None:
    """Returns how many bytes of main memory this process may still take; None where the system does not say.

    Args:
        root: Of the file system; another one in tests.
    """
    found = []
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        group = root / "sys/fs/cgroup"
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if limit != "max":
            # Files that were read count as used until their memory is needed.
            statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            found.append(int(limit) - int(used) + int(statistics.get("inactive_file", 0)))
    except (OSError, ValueError):
        pass  # another system, or no control group: what was found counts
    return min(found, default=None)


def memory_warning(
    model: keras.Model, images: int, *, available: int | None, precision: str = "float32", side: float = 1.0
) -> str | None:
    """Returns a sentence where a training step needs more memory than there is, and None where it does not.

    Args:
        model: The network; of the twin that trains on images of another size the sides are unknown.
        images: How many of a batch this process has.
        available: From `available_bytes`.
        precision: One of `distribution.PRECISIONS`.
        side: The side of the images that it trains on, as a part of the model's own.
    """
    needed = round(images * activation_bytes(model, precision=precision) * side**2)
    if available is None or needed <= available:
        return None
    return (
        f"A step of {images:,} images keeps at least {megabytes(needed)} of activations, and {megabytes(available)} of "
        "memory are left: the system may end this process without a word. Lower batch_size, and raise accumulate as "
        "often."
    )
