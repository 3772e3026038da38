"""Tensors that follow from a name and a shape alone, so that references need no weights beside them.

`RandomState` promises the same stream in every version of NumPy. Scales are chosen so that activations stay near 1
through a hundred layers, and every batch norm has statistics of its own.
"""

import zlib

import numpy as np

INPUT_SIZE = 72  # halves to 9, 5 and 3: odd maps show wrong padding where 64 would hide it
CLASSES = 16


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array for PyTorch's name and layout."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    kind = name.rsplit(".", 1)[1]
    if kind == "running_var":
        values = random.uniform(0.5, 1.5, shape)
    elif kind == "running_mean":
        values = random.uniform(-0.3, 0.3, shape)
    elif kind == "bias":
        values = random.uniform(-0.2, 0.2, shape)
    elif len(shape) == 1:
        values = random.uniform(0.5, 1.0, shape)
    else:
        fan_in = int(np.prod(shape[1:]))
        values = random.uniform(-1, 1, shape) * np.sqrt(6 / fan_in)
    return values.astype(np.float32)


def images(channels: int = 3, size: int = INPUT_SIZE) -> np.ndarray:
    """Float32 (2, size, size, channels), channels last."""
    return np.random.RandomState(1).uniform(-2, 2, (2, size, size, channels)).astype(np.float32)


def named_state(model) -> dict[str, np.ndarray]:
    """A state dict for a network of ours, every floating tensor made from its name."""
    from keras_resnet.weights import pytorch  # not where the references are recorded

    return {
        name: tensor(name, value.shape) if value.dtype == np.float32 else value
        for name, value in pytorch.to_state_dict(model).items()
    }
