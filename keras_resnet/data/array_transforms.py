"""From pixels to network input in NumPy: what `transforms` computes, where TensorFlow is not installed.

Every number is computed in float32 and added up in the order in which TensorFlow does it, so that both give the same
bits. The resizing is that of `tf.image.resize` with antialiasing: kernels widened by the factor of shrinking, as in
Pillow.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_resnet.data.preprocessing import LUMA, Preprocessing

_ONE = np.float32(1.0)


def resize_image(images: Any, preprocessing: Preprocessing) -> np.ndarray:
    """Brings images of any one size to the network's size and number of channels; see `transforms.resize_image`.

    Args:
        images: [..., height, width, 1 or 3], uint8 or float, 0..255, RGB: one image or a batch.
        preprocessing: The settings.

    Returns:
        float32 [..., preprocessing.height, preprocessing.width, preprocessing.channels], 0..255.
    """
    images = to_channels(np.asarray(images), preprocessing.channels)
    target = (preprocessing.height, preprocessing.width)
    if preprocessing.resize == "squash":
        return _resize(images, target, preprocessing.interpolation)
    cover = [round(side / preprocessing.crop_fraction) for side in target]
    height, width = images.shape[-3:-1]
    if height * cover[1] >= width * cover[0]:
        size = (max(height * cover[1] // width, cover[0]), cover[1])
    else:
        size = (cover[0], max(width * cover[0] // height, cover[1]))
    # Python rounds halves to the even number, too.
    top, left = (round((have - want) / 2) for have, want in zip(size, target, strict=True))
    resized = _resize(images, size, preprocessing.interpolation)
    return resized[..., top : top + target[0], left : left + target[1], :]


def normalize(images: Any, preprocessing: Preprocessing) -> np.ndarray:
    """Turns pixels into network input: (pixel / 255 - mean) / std; see `transforms.normalize`.

    Args:
        images: [..., channels], uint8 or float, 0..255, RGB.
        preprocessing: The settings.

    Returns:
        float32 array of the same shape.
    """
    images = np.asarray(images, np.float32)
    if preprocessing.color_order == "bgr":
        images = images[..., ::-1]
    scale, offset = preprocessing.scale_and_offset()
    return images * scale + offset


def preprocess(images: Any, preprocessing: Preprocessing) -> np.ndarray:
    """Resizes and normalizes: everything between a decoded image and the network."""
    return normalize(resize_image(images, preprocessing), preprocessing)


def to_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Converts between grey and RGB where the last axis says that it is the other one."""
    if images.shape[-1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    if np.issubdtype(images.dtype, np.floating):
        weights = np.array(LUMA, np.float32) / np.float32(65536.0)
        return (images.astype(np.float32) * weights).sum(axis=-1, keepdims=True)
    weighted = (images.astype(np.int32) * np.array(LUMA, np.int32)).sum(axis=-1, keepdims=True)
    return ((weighted + 0x8000) // 65536).astype(images.dtype)


@functools.lru_cache(maxsize=64)
def taps(source: int, target: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns what each pixel of a resized row is made of.

    Args:
        source: Pixels of the row.
        target: Pixels of the resized row.
        interpolation: "bilinear", "bicubic" or "lanczos3".

    Returns:
        (positions, weights): int64 and float32 [target, taps], the pixels that are added up and their parts. A weight
        of 0 fills up where a pixel is made of fewer.
    """
    radius, kernel = _KERNELS[interpolation]
    # How many pixels of the source one of the target covers.
    step = np.float32(1.0 / float(np.float32(target) / np.float32(source)))
    width = max(step, _ONE)
    reach = np.float32(radius) * width
    centre = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * step
    first = np.ceil(centre - reach - np.float32(0.5)).astype(np.int64).clip(0, source - 1)
    end = np.floor(centre + reach - np.float32(0.5)).astype(np.int64).clip(0, source - 1) + 1
    positions = first[:, None] + np.arange(int((end - first).max()))
    inside = positions < end[:, None]
    distance = np.abs((positions.astype(np.float32) + np.float32(0.5) - centre[:, None]) * (_ONE / width))
    weights = np.where(inside, kernel(distance), np.float32(0.0)).astype(np.float32)
    total = np.zeros(target, np.float32)
    for column in weights.T:
        total = total + column
    return np.minimum(positions, source - 1), weights * (_ONE / total)[:, None]


def resize_matrix(source: int, target: int, interpolation: str) -> np.ndarray:
    """Returns `taps` as a matrix, float32 [target, source]; of "nearest", too."""
    matrix = np.zeros((target, source), np.float32)
    if interpolation == "nearest":
        matrix[np.arange(target), _nearest(source, target)] = 1.0
        return matrix
    positions, weights = taps(source, target, interpolation)
    np.add.at(matrix, (np.arange(target)[:, None], positions), weights)
    return matrix


def _resize(images: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    height, width = images.shape[-3:-1]
    if (height, width) == size:
        return images.astype(np.float32)
    if interpolation == "nearest":
        rows, columns = _nearest(height, size[0]), _nearest(width, size[1])
        return images[..., rows[:, None], columns[None], :].astype(np.float32)
    rows = _gathered(images, taps(height, size[0], interpolation), axis=-3)
    return _gathered(rows, taps(width, size[1], interpolation), axis=-2).clip(0.0, 255.0)


def _gathered(images: np.ndarray, made_of: tuple[np.ndarray, np.ndarray], *, axis: int) -> np.ndarray:
    positions, weights = made_of
    shape = [1] * -axis
    shape[0] = len(weights)
    total = None
    for number in range(positions.shape[1]):
        part = np.take(images, positions[:, number], axis=axis).astype(np.float32, copy=False)
        part = part * weights[:, number].reshape(shape)
        total = part if total is None else total + part
    return total


def _nearest(source: int, target: int) -> np.ndarray:
    step = np.float32(source) / np.float32(target)
    place = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * step
    return np.minimum(np.floor(place).astype(np.int64), source - 1)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.where(x < 1.0, _ONE - x, np.float32(0.0))


def _keys_cubic(x: np.ndarray) -> np.ndarray:
    """Keys 1981, "Cubic convolution interpolation for digital image processing", with a = -1/2."""
    a, b, c = (np.float32(value) for value in (1.5, 2.5, 0.5))
    near = (a * x - b) * x * x + _ONE
    far = ((-c * x + b) * x - np.float32(4.0)) * x + np.float32(2.0)
    return np.where(x >= 2.0, np.float32(0.0), np.where(x >= 1.0, far, near))


def _lanczos3(x: np.ndarray) -> np.ndarray:
    pi, radius = np.float32(np.pi), np.float32(3.0)
    x_or_one = np.where(x <= 1e-3, _ONE, x)
    sines = np.sin(pi * x_or_one) * radius * np.sin(pi * x_or_one / radius)
    value = sines / (pi * pi * x_or_one * x_or_one)
    return np.where(x > radius, np.float32(0.0), np.where(x <= 1e-3, _ONE, value))


# Half the width of a kernel, and the kernel as a function of the distance from its middle.
_KERNELS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _keys_cubic),
    "lanczos3": (3.0, _lanczos3),
}
