"""Changes of colour and geometry on batches of 8-bit images, each equal to Pillow's on the same image.

Augmentation policies choose among them. A magnitude is in Pillow's own units: degrees, pixels, the factor of an
enhancement, bits that are kept, a threshold. What takes none ignores it, so that all can be called alike.

Colour is computed in the same precision as Pillow's, and geometry in the same fixed-point numbers: not a bit differs.
Arithmetic stands where `tf.where` would be shorter, and rows of all channels where pixels would: TensorFlow selects
8-bit values, and repeats values over a last axis of 3, ten times slower.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_resnet.data.preprocessing import LUMA

_FIXED_POINT_BITS = 16  # of Pillow's coordinates behind the point


def in_8_bits(images: tf.Tensor) -> tf.Tensor:
    """Rounds pixels to whole numbers.

    Args:
        images: Any shape and numeric dtype, 0..255.

    Returns:
        uint8 tensor of the same shape; what is 8-bit already stays as it is.
    """
    return images if images.dtype == tf.uint8 else tf.saturate_cast(tf.round(tf.cast(images, tf.float32)), tf.uint8)


def identity(images: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Returns the images as they are."""
    return images


def brightness(images: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Blends black (factor 0) with the image (1); a larger factor brightens it, as PIL.ImageEnhance.Brightness.

    Args:
        images: uint8 [n, height, width, 1 or 3].
        magnitude: float32 [n], the factor, from 0.

    Returns:
        uint8 tensor of the same shape.
    """
    return _blend(0.0, images, magnitude)


def color(images: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Blends the image in grey (factor 0) with the image (1), as PIL.ImageEnhance.Color; grey images stay.

    Args and returns as `brightness`.
    """
    if images.shape[-1] == 1:
        return images
    return _blend(_grey(images, 3), images, magnitude)


def contrast(images: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Blends the image's mean grey (factor 0) with the image (1), as PIL.ImageEnhance.Contrast.

    Args and returns as `brightness`.
    """
    pixels = images.shape[1] * images.shape[2]
    total = tf.reduce_sum(tf.cast(_grey(images, 1), tf.int64), axis=[1, 2, 3], keepdims=True)
    mean = (2 * total + pixels) // (2 * pixels)  # rounded, halves up
    return _blend(tf.cast(mean, tf.float32), images, magnitude)


def sharpness(images: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Blends the smoothed image (factor 0) with the image (1); a larger factor sharpens, as PIL.ImageEnhance.Sharpness.

    The outermost pixels stay, because the smoothing of 3×3 pixels does not reach them.

    Args and returns as `brightness`.
    """
    height, width = images.shape[1:3]
    if min(height, width) < 3:
        return images
    pixels = tf.cast(images, tf.float32)
    rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    inner = pixels[:, 1:-1, 1:-1]
    weighted = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4.0 * inner
    smooth = tf.floor(weighted / 13.0 + 0.5)  # no whole number is half of 13: the rounding is never close
    middle = tf.concat([images[:, 1:-1, :1], _blend(smooth, inner, magnitude), images[:, 1:-1, -1:]], axis=2)
    return tf.concat([images[:, :1], middle, images[:, -1:]], axis=1)


def posterize(images: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Keeps the highest bits of each value, as PIL.ImageOps.posterize, which takes 1 to 8; 0 bits leave black.

    Args:
        images: uint8 [n, height, width, channels].
        magnitude: float32 [n], how many bits, 0..8; parts of a bit are dropped.

    Returns:
        uint8 tensor of the same shape.
    """
    masks = tf.constant([256 - 2 ** (8 - bits) for bits in range(9)], tf.uint8)
    mask = tf.gather(masks, tf.cast(magnitude, tf.int32))
    return tf.bitwise.bitwise_and(images, _per_image(mask))


def solarize(images: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Inverts the values from a threshold on, as PIL.ImageOps.solarize.

    Args:
        images: uint8 [n, height, width, channels].
        magnitude: float32 [n], the threshold; above 255 nothing is inverted.

    Returns:
        uint8 tensor of the same shape.
    """
    is_inverted = tf.cast(images, tf.float32) >= _per_image(magnitude)
    return tf.bitwise.bitwise_xor(images, 255 * tf.cast(is_inverted, tf.uint8))


def solarize_add(images: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Adds to the values below 128, up to 255: timm's companion of solarize.

    Args:
        images: uint8 [n, height, width, channels].
        magnitude: float32 [n], what is added, 0..128; its fraction is dropped.

    Returns:
        uint8 tensor of the same shape.
    """
    return images + tf.cast(images < 128, tf.uint8) * _per_image(tf.cast(magnitude, tf.uint8))


def invert(images: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Returns the negative of the images, as PIL.ImageOps.invert."""
    return 255 - images


def autocontrast(images: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Stretches each channel so that it reaches from 0 to 255, as PIL.ImageOps.autocontrast.

    Args:
        images: uint8 [n, height, width, channels].
        magnitude: Ignored.

    Returns:
        uint8 tensor of the same shape; channels of a single value stay.
    """
    low = tf.cast(tf.reduce_min(images, axis=[1, 2]), tf.float64)
    high = tf.cast(tf.reduce_max(images, axis=[1, 2]), tf.float64)
    # In double precision and in Pillow's order: the product is often within a rounding of a whole number.
    scale = tf.where(high > low, 255.0 / tf.maximum(high - low, 1.0), 1.0)
    offset = tf.where(high > low, -low * scale, 0.0)
    height, width, channels = images.shape[1:]
    rows = tf.reshape(tf.cast(images, tf.float64), [-1, height, width * channels])
    scale, offset = (tf.tile(values, [1, width])[:, tf.newaxis] for values in (scale, offset))
    stretched = tf.clip_by_value(rows * scale + offset, 0.0, 255.0)
    return tf.reshape(tf.cast(stretched, tf.uint8), tf.shape(images))


def equalize(images: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Evens out the histogram of each channel, as PIL.ImageOps.equalize.

    Args:
        images: uint8 [n, height, width, channels].
        magnitude: Ignored.

    Returns:
        uint8 tensor of the same shape.
    """
    channels = images.shape[-1]
    tables = tf.shape(images)[0] * channels
    height, width = images.shape[1:3]
    first = tf.tile(256 * tf.reshape(tf.range(tables), [-1, channels]), [1, width])[:, tf.newaxis]
    bins = first + tf.reshape(tf.cast(images, tf.int32), [-1, height, width * channels])
    # An empty batch still has the table of one channel.
    size = 256 * tf.maximum(tables, 1)
    histogram = tf.reshape(tf.math.bincount(tf.reshape(bins, [-1]), minlength=size, maxlength=size), [-1, 256])
    total = tf.reduce_sum(histogram, axis=1, keepdims=True)
    below = tf.cumsum(histogram, axis=1, exclusive=True)
    values = tf.range(256)
    highest = tf.reduce_max(tf.where(histogram > 0, values, 0), axis=1)
    step = (total - tf.gather(histogram, highest, batch_dims=1)[:, tf.newaxis]) // 255
    evened = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    table = tf.cast(tf.where(step > 0, evened, values), tf.uint8)
    return tf.reshape(tf.gather(tf.reshape(table, [-1]), bins), tf.shape(images))


def shear_x(images: tf.Tensor, magnitude: tf.Tensor, *, fill: int = 0) -> tf.Tensor:
    """Shifts each row by its distance from the top times a factor, as PIL.Image.transform.

    Args:
        images: uint8 [n, height, width, channels].
        magnitude: float32 [n], the factor; above 0 the lower rows move to the left.
        fill: Value of the pixels that come from outside.

    Returns:
        uint8 tensor of the same shape, each pixel that of the nearest source.
    """
    return _affine(images, [1.0, magnitude, 0.0, 0.0, 1.0, 0.0], fill)


def shear_y(images: tf.Tensor, magnitude: tf.Tensor, *, fill: int = 0) -> tf.Tensor:
    """Shifts each column by its distance from the left times a factor; see `shear_x`."""
    return _affine(images, [1.0, 0.0, 0.0, magnitude, 1.0, 0.0], fill)


def translate_x(images: tf.Tensor, magnitude: tf.Tensor, *, fill: int = 0) -> tf.Tensor:
    """Shifts images to the right by pixels; see `shear_x`."""
    return _affine(images, [1.0, 0.0, -magnitude, 0.0, 1.0, 0.0], fill)


def translate_y(images: tf.Tensor, magnitude: tf.Tensor, *, fill: int = 0) -> tf.Tensor:
    """Shifts images down by pixels; see `shear_x`."""
    return _affine(images, [1.0, 0.0, 0.0, 0.0, 1.0, -magnitude], fill)


def rotate(images: tf.Tensor, magnitude: tf.Tensor, *, fill: int = 0) -> tf.Tensor:
    """Turns images about their centre, anticlockwise by degrees, as PIL.Image.rotate; see `shear_x`."""
    angle = -tf.cast(magnitude, tf.float64) * (math.pi / 180.0)
    cosine, sine = (tf.round(value * 1e15) / 1e15 for value in (tf.cos(angle), tf.sin(angle)))
    centre_y, centre_x = (side / 2.0 for side in images.shape[1:3])
    from_x = centre_x - cosine * centre_x - sine * centre_y
    from_y = centre_y + sine * centre_x - cosine * centre_y
    return _affine(images, [cosine, sine, from_x, -sine, cosine, from_y], fill)


GEOMETRY: dict[str, Callable[..., tf.Tensor]] = {
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
    "rotate": rotate,
}
OPERATIONS: dict[str, Callable[..., tf.Tensor]] = {
    "identity": identity,
    **GEOMETRY,
    "brightness": brightness,
    "color": color,
    "contrast": contrast,
    "sharpness": sharpness,
    "posterize": posterize,
    "solarize": solarize,
    "solarize_add": solarize_add,
    "invert": invert,
    "autocontrast": autocontrast,
    "equalize": equalize,
}


def apply_operations(
    images: tf.Tensor, names: Sequence[str], chosen: tf.Tensor, magnitude: tf.Tensor, *, fill: int = 0
) -> tf.Tensor:
    """Gives each image of a batch its own operation, and lets it pay for that one alone.

    Args:
        images: uint8 [n, height, width, channels].
        names: The operations to choose from, of `OPERATIONS`.
        chosen: int32 [n], positions in `names`.
        magnitude: float32 [n].
        fill: Value of pixels that a geometric operation takes from outside.

    Returns:
        uint8 tensor of the same shape.
    """
    places = tf.dynamic_partition(tf.range(tf.shape(images)[0]), chosen, len(names))
    parts = tf.dynamic_partition(images, chosen, len(names))
    magnitudes = tf.dynamic_partition(magnitude, chosen, len(names))
    changed = []
    for name, part, own in zip(names, parts, magnitudes, strict=True):
        operation = functools.partial(GEOMETRY[name], fill=fill) if name in GEOMETRY else OPERATIONS[name]
        changed.append(operation(part, own))
    return tf.ensure_shape(tf.dynamic_stitch(places, changed), images.shape)


def _per_image(values: tf.Tensor) -> tf.Tensor:
    return tf.reshape(values, [-1, 1, 1, 1])


def _grey(images: tf.Tensor, channels: int) -> tf.Tensor:
    """The images in grey, in so many channels: float32 of whole numbers, which hold every step exactly (below 2²⁴)."""
    pixels = tf.cast(images, tf.float32)
    if images.shape[-1] == 1:
        return pixels
    weights = tf.constant([[weight] * channels for weight in LUMA], tf.float32)
    weighted = tf.linalg.matmul(tf.reshape(pixels, [-1, 3]), weights)
    grey = tf.floor((weighted + 32768.0) / 65536.0)
    return tf.reshape(grey, [-1, *images.shape[1:3], channels])


def _blend(degenerate: tf.Tensor | float, images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """PIL.Image.blend: `degenerate` at factor 0, `images` at 1; the fraction of the result is dropped."""
    blended = degenerate + _per_image(factor) * (tf.cast(images, tf.float32) - degenerate)
    return tf.cast(tf.clip_by_value(blended, 0.0, 255.0), tf.uint8)


def _affine(images: tf.Tensor, coefficients: Sequence[Any], fill: int) -> tf.Tensor:
    """Takes each pixel from (a x + b y + c, d x + e y + f) of the image, the nearest one; see PIL.Image.transform."""
    count = tf.shape(images)[0]
    height, width, channels = images.shape[1:]
    a, b, c, d, e, f = (tf.broadcast_to(tf.cast(value, tf.float64), [count]) for value in coefficients)

    def fixed(value: tf.Tensor) -> tf.Tensor:
        whole = tf.cast(tf.floor(value * 2.0**_FIXED_POINT_BITS + 0.5), tf.int32)
        return whole[:, tf.newaxis, tf.newaxis]

    def source(along_x: tf.Tensor, along_y: tf.Tensor, first: tf.Tensor, size: int) -> tf.Tensor:
        start = fixed(first + 0.5 * along_x + 0.5 * along_y)  # from the centre of the first pixel
        columns, rows = tf.range(width), tf.range(height)[:, tf.newaxis]
        position = (start + fixed(along_y) * rows) + fixed(along_x) * columns
        position = tf.bitwise.right_shift(position, _FIXED_POINT_BITS)
        return tf.clip_by_value(position, -1, size) + 1  # in an image with a border of one pixel

    rows, columns = source(d, e, f, height), source(a, b, c, width)
    bordered = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=fill)
    first = tf.range(count)[:, tf.newaxis, tf.newaxis] * ((height + 2) * (width + 2))
    pixels = tf.gather(tf.reshape(bordered, [-1, channels]), first + rows * (width + 2) + columns)
    return tf.ensure_shape(pixels, images.shape)
