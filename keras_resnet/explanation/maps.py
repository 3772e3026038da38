"""From a method's raw numbers to a heat map: enlarged to the image, rectified, scaled to 0..1, or declared constant."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_resnet.backends import as_array, compiled
from keras_resnet.errors import UserError

# Differences below this part of what was added up are rounding: float32 has 1.2e-7 a step, and a map sums hundreds
# to thousands of terms.
ROUNDING = 1e-5


@dataclass(frozen=True)
class RawMaps:
    """What a method computes.

    Attributes:
        values: float32 [N, h, w] at any resolution; what speaks for the class is positive.
        scale: float32 [N], the size of the numbers that `values` are sums or differences of.
    """

    values: Any
    scale: Any


def resize_matrix(source: Any, target: Any) -> Any:
    """Returns the matrix [target, source] that enlarges a row linearly, the corners on the corners.

    tf-keras-vis (SciPy's `zoom`) does it so, too. A strided network's map lies a little towards the image's start of
    that, half-pixel centres a little towards its end: neither is nearer.
    """
    last = ops.cast(source, "float32") - 1
    position = ops.arange(target, dtype="float32") * last / ops.maximum(ops.cast(target, "float32") - 1, 1)
    return ops.maximum(0.0, 1.0 - ops.abs(position[:, None] - ops.arange(source, dtype="float32")[None]))


def resize_maps(maps: Any, height: Any, width: Any) -> Any:
    """Resizes maps [N, h, w] to [N, height, width], linearly."""
    rows, columns = ops.shape(maps)[1:3]
    return _enlarged(maps, resize_matrix(rows, height), resize_matrix(columns, width))


def _enlarged(maps: Any, rows: Any, columns: Any) -> Any:
    return ops.einsum("yh,nhw,xw->nyx", rows, maps, columns)


@functools.lru_cache(maxsize=32)
def _kept_matrix(source: int, target: int) -> np.ndarray:
    return as_array(resize_matrix(source, target))


@functools.cache
def _finishing() -> Any:
    def finish(values, scale, rows, columns):
        largest = ops.max(values, axis=(1, 2))
        smallest = ops.min(values, axis=(1, 2))
        scale = ops.maximum(scale, ops.maximum(ops.abs(largest), ops.abs(smallest)))
        constant = largest - smallest <= ROUNDING * scale
        maps = _enlarged(ops.relu(values), rows, columns)
        top = ops.max(maps, axis=(1, 2), keepdims=True)
        nothing = ops.logical_or(constant[:, None, None], top <= 0)
        return ops.where(nothing, 0.0, maps / ops.where(top > 0, top, 1.0))

    shapes = (None, None, None), (None,), (None, None), (None, None)
    return compiled(finish, lambda: (), [(shape, "float32") for shape in shapes])


def finish_maps(raw: RawMaps, height: int, width: int, *, what: str) -> np.ndarray:
    """Turns raw maps into heat maps.

    What speaks against the class is cut off before the map is enlarged, as the papers do, and each map is divided by
    its maximum. A map that is constant, or has nothing that speaks for the class, becomes all zeros: dividing it by
    what rounding left would show noise.

    Args:
        raw: What a method computed.
        height: Height of the result.
        width: Width of the result.
        what: The method's name, for the error.

    Returns:
        float32 [N, height, width]; the maximum of each map is 1, or 0 where it is constant.

    Raises:
        UserError: A map holds NaN or infinity.
    """
    values = as_array(raw.values)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
    if len(bad):
        raise UserError(
            f"The {what} map of image {bad[0] + 1} holds NaN or infinity: the network's weights or the image do. "
            "Check them for NaN."
        )
    scale = as_array(raw.scale).astype(np.float32)
    rows, columns = _kept_matrix(values.shape[1], height), _kept_matrix(values.shape[2], width)
    return as_array(_finishing()(values.astype(np.float32), scale, rows, columns))


def is_constant(maps: np.ndarray) -> np.ndarray:
    """Returns bool [N]: which heat maps [N, H, W] are constant, so that nothing stands out."""
    return maps.max(axis=(1, 2)) <= 0
