"""How much main memory a training step needs, compared with what the machine has left.

When memory runs out, the system kills the process without a message, so a warning that a batch is too large must come
before the training.
"""

import math
from pathlib import Path

import keras

from keras_resnet.archives import megabytes

_KEPT = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.MaxPooling2D,
)


def activation_bytes(model: keras.Model) -> int:
    """Returns how many bytes the backward pass needs per image, at least.

    A normalization's gradient needs the output of the convolution before it, and a convolution's gradient needs the
    output of the activation before it. A step briefly holds more: for ResNet-50 at 224 pixels in float32 this returns
    84 MB, and 100 MB were measured.

    Args:
        model: A functional model with a known input size.
    """
    kept = [layer for layer in model.layers if isinstance(layer, _KEPT)]
    return sum(math.prod(layer.output.shape[1:]) * (2 if layer.compute_dtype.endswith("16") else 4) for layer in kept)


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
        found += [int(limit) - int(used)] if limit != "max" else []
    except (OSError, ValueError):
        pass  # another system, or no control group: use what was found
    return min(found, default=None)


def memory_warning(model: keras.Model, images: int, *, available: int | None, side: float = 1.0) -> str | None:
    """Returns a warning if a training step needs more memory than there is, else None.

    Args:
        model: The network that trains.
        images: How many images of a batch this process trains on.
        available: From `available_bytes`.
        side: The side of the training images, as a fraction of the model's own.
    """
    needed = round(images * activation_bytes(model) * side**2)
    if available is None or needed <= available:
        return None
    return (
        f"A step of {images:,} images needs at least {megabytes(needed)} of memory for activations, but only "
        f"{megabytes(available)} is left: the system may end this process without a message. Lower batch_size, and "
        "raise accumulate by the same factor."
    )
