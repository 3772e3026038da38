"""From pixels to network input, as TensorFlow operators: an exported graph carries them, so that training, evaluation
and serving run the same code.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data.preprocessing import LUMA, Preprocessing


def resize_image(images: Any, preprocessing: Preprocessing) -> tf.Tensor:
    """Brings images of any one size to the network's size and number of channels.

    Args:
        images: [..., height, width, 1 or 3], uint8 or float, 0..255, RGB: one image or a batch.
        preprocessing: The settings.

    Returns:
        float32 tensor [..., preprocessing.height, preprocessing.width, preprocessing.channels], 0..255.
    """
    images = tf.convert_to_tensor(images)
    images = to_channels(images, preprocessing.channels)
    target = (preprocessing.height, preprocessing.width)
    if preprocessing.resize == "squash":
        resized = _resize(images, target, preprocessing.interpolation)
    else:
        resized = _resize_and_crop(images, target, preprocessing)
    return tf.ensure_shape(resized, [*images.shape[:-3], *target, preprocessing.channels])


def normalize(images: Any, preprocessing: Preprocessing) -> tf.Tensor:
    """Turns pixels into network input: (pixel / 255 - mean) / std, in the network's channel order.

    Args:
        images: [..., channels], uint8 or float, 0..255, RGB.
        preprocessing: The settings.

    Returns:
        float32 tensor of the same shape.
    """
    images = tf.cast(images, tf.float32)
    if preprocessing.color_order == "bgr":
        images = tf.reverse(images, axis=[-1])
    scale, offset = preprocessing.scale_and_offset()
    return images * scale + offset


def preprocess(images: Any, preprocessing: Preprocessing) -> tf.Tensor:
    """Resizes and normalizes: everything between a decoded image and the network.

    Args:
        images: [..., height, width, 1 or 3], uint8 or float, 0..255, RGB.
        preprocessing: The settings.

    Returns:
        float32 tensor [..., preprocessing.height, preprocessing.width, preprocessing.channels].
    """
    return normalize(resize_image(images, preprocessing), preprocessing)


def to_channels(images: tf.Tensor, channels: int) -> tf.Tensor:
    """Converts between grey and RGB where the last axis says that it is the other one."""
    if images.shape[-1] == channels:
        return images
    if channels == 3:
        return tf.repeat(images, 3, axis=-1)
    if images.dtype.is_floating:
        weights = np.array(LUMA, np.float32) / 65536.0
        return tf.reduce_sum(tf.cast(images, tf.float32) * weights, axis=-1, keepdims=True)
    weighted = tf.reduce_sum(tf.cast(images, tf.int32) * LUMA, axis=-1, keepdims=True)
    return tf.cast((weighted + 0x8000) // 65536, images.dtype)


def _resize(images: tf.Tensor, size: Any, interpolation: str) -> tf.Tensor:
    if isinstance(size, tuple) and tuple(images.shape[-3:-1]) == size:
        return tf.cast(images, tf.float32)
    resized = tf.cast(tf.image.resize(images, size, interpolation, antialias=True), tf.float32)
    # Bicubic and Lanczos overshoot at edges, and the others by a rounding; Pillow's 8 bits cannot, so neither does
    # this.
    return resized if interpolation == "nearest" else tf.clip_by_value(resized, 0.0, 255.0)


def _resize_and_crop(images: tf.Tensor, target: tuple[int, int], preprocessing: Preprocessing) -> tf.Tensor:
    height, width = target
    cover_height = round(height / preprocessing.crop_fraction)
    cover_width = round(width / preprocessing.crop_fraction)
    shape = tf.shape(images)
    image_height, image_width = shape[-3], shape[-2]
    # Whole-number arithmetic, so that the size never depends on the rounding of a quotient. The longer side is rounded
    # down, as torchvision does it, but never below what the crop needs.
    taller = image_height * cover_width >= image_width * cover_height
    size = tf.cond(
        taller,
        lambda: tf.stack([tf.maximum(image_height * cover_width // image_width, cover_height), cover_width]),
        lambda: tf.stack([cover_height, tf.maximum(image_width * cover_height // image_height, cover_width)]),
    )
    resized = _resize(images, size, preprocessing.interpolation)
    # Halves to the even number: torchvision's centre crop.
    top, left = tf.unstack(tf.cast(tf.round(tf.cast(size - [height, width], tf.float32) / 2.0), tf.int32))
    return resized[..., top : top + height, left : left + width, :]
