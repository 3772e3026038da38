"""How much main memory a training step needs, compared with what the machine has left.

When memory runs out, the system kills the process without a message, so a warning that a batch is too large must come
before the training.
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
    """Returns how many bytes the backward pass needs per image, at least.

    A normalization's gradient needs the output of the convolution before it, and a convolution's gradient needs the
    output of the activation before it. A step briefly holds more: for ResNet-50 at 224 pixels in float32 this returns
    84 MB, and 100 MB were measured.

    Args:
        model: A functional model. If a side of its input is unknown, nothing is counted.
        precision: One of `distribution.PRECISIONS`.
    """
    shapes = [layer.output.shape[1:] for layer in model.layers if isinstance(layer, _KEPT)]
    item = 2 if keras_precision(precision).endswith("16") else 4
    return item * sum(math.prod(shape) for shape in shapes if None not in shape)


def available_bytes(root: Path = Path("/")) -> int | None:
    """Returns how many bytes of main memory this process may still take; None if the system does not say.

    Args:
        root: The root of the file system; tests pass another.
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
        pass  # another system, or no control group: use what was found
    return min(found, default=None)


def memory_warning(
    model: keras.Model, images: int, *, available: int | None, precision: str = "float32", side: float = 1.0
) -> str | None:
    """Returns a warning if a training step needs more memory than there is, else None.

    Args:
        model: The network. Not its twin, which has no known sides if it trains on images of another size.
        images: How many images of a batch this process trains on.
        available: From `available_bytes`.
        precision: One of `distribution.PRECISIONS`.
        side: The side of the training images, as a fraction of the model's own.
    """
    needed = round(images * activation_bytes(model, precision=precision) * side**2)
    if available is None or needed <= available:
        return None
    return (
        f"A step of {images:,} images needs at least {megabytes(needed)} of memory for activations, but only "
        f"{megabytes(available)} is left: the system may end this process without a message. Lower batch_size, and "
        "raise accumulate by the same factor."
    )
