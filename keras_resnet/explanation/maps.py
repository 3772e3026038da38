"""From a method's raw numbers to a heat map: enlarged to the image, rectified, scaled to 0..1, or declared constant."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

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

    values: tf.Tensor
    scale: tf.Tensor


def resize_matrix(source, target) -> tf.Tensor:
    """Returns the matrix [target, source] that enlarges a row linearly, the corners on the corners.

    tf-keras-vis (SciPy's `zoom`) does it so, too. A strided network's map lies a little towards the image's start of
    that, half-pixel centres a little towards its end: neither is nearer.
    """
    source, target = tf.cast(source, tf.float32), tf.cast(target, tf.float32)
    position = tf.range(target) * (source - 1) / tf.maximum(target - 1, 1)
    return tf.maximum(0.0, 1.0 - tf.abs(position[:, None] - tf.range(source)[None]))


def resize_maps(maps: tf.Tensor, height, width) -> tf.Tensor:
    """Resizes maps [N, h, w] to [N, height, width], linearly."""
    rows = resize_matrix(tf.shape(maps)[1], height)
    columns = resize_matrix(tf.shape(maps)[2], width)
    return tf.einsum("yh,nhw,xw->nyx", rows, maps, columns)


@tf.function(
    input_signature=[
        tf.TensorSpec([None, None, None], tf.float32),
        tf.TensorSpec([None], tf.float32),
        tf.TensorSpec([], tf.int32),
        tf.TensorSpec([], tf.int32),
    ]
)
def _finish(values, scale, height, width):
    largest = tf.reduce_max(values, axis=(1, 2))
    smallest = tf.reduce_min(values, axis=(1, 2))
    scale = tf.maximum(scale, tf.maximum(tf.abs(largest), tf.abs(smallest)))
    constant = largest - smallest <= ROUNDING * scale
    maps = resize_maps(tf.nn.relu(values), height, width)
    top = tf.reduce_max(maps, axis=(1, 2), keepdims=True)
    return tf.where(constant[:, None, None] | (top <= 0), 0.0, maps / tf.where(top > 0, top, 1.0))


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
    values = raw.values.numpy() if hasattr(raw.values, "numpy") else np.asarray(raw.values)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
    if len(bad):
        raise UserError(
            f"The {what} map of image {bad[0] + 1} holds NaN or infinity: the network's weights or the image do. "
            "Check them for NaN."
        )
    return _finish(values, tf.cast(raw.scale, tf.float32), height, width).numpy()


def is_constant(maps: np.ndarray) -> np.ndarray:
    """Returns bool [N]: which heat maps [N, H, W] are constant, so that nothing stands out."""
    return maps.max(axis=(1, 2)) <= 0
