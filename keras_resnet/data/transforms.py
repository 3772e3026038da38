"""From pixels to network input, as TensorFlow operators: an exported graph carries them, so that training, evaluation
and serving run the same code.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data.preprocessing import LUMA, Preprocessing

# Interpolation → the operator's name of its kernel.
_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic", "lanczos3": "lanczos3"}


def resize_image(images: Any, preprocessing: Preprocessing, *, antialias: bool = True) -> tf.Tensor:
    """Brings images of any one size to the network's size and number of channels.

    Args:
        images: [..., height, width, 1 or 3], uint8 or float, 0..255, RGB: one image or a batch.
        preprocessing: The settings.
        antialias: Whether an image that shrinks is smoothed first. False is for training only, and needs "squash".

    Returns:
        float32 tensor [..., preprocessing.height, preprocessing.width, preprocessing.channels], 0..255.
    """
    images = tf.convert_to_tensor(images)
    images = to_channels(images, preprocessing.channels)
    target = (preprocessing.height, preprocessing.width)
    if preprocessing.resize == "squash":
        resized = _resize(images, target, preprocessing.interpolation, antialias=antialias)
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
    if images.shape.rank < 3 or images.shape[-2] is None:
        return images * scale + offset
    # Over whole rows: a last axis of three is too short for the processor's vectors, and took five times as long.
    width = images.shape[-2]
    shape = tf.shape(images)
    rows = tf.reshape(images, tf.concat([shape[:-2], [width * images.shape[-1]]], axis=0))
    rows = rows * np.tile(scale, width) + np.tile(offset, width)
    return tf.ensure_shape(tf.reshape(rows, shape), images.shape)


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


def _resize(images: tf.Tensor, size: Any, interpolation: str, *, antialias: bool = True) -> tf.Tensor:
    if isinstance(size, tuple) and tuple(images.shape[-3:-1]) == size:
        return tf.cast(images, tf.float32)
    if interpolation == "nearest" or not antialias:
        resized = tf.cast(tf.image.resize(images, size, interpolation), tf.float32)
        return resized if interpolation in ("nearest", "bilinear") else tf.clip_by_value(resized, 0.0, 255.0)
    shape, channels = tf.shape(images), images.shape[-1]
    height, width = size[0], size[1]
    # `tf.image.resize` to the bit. Its operator is fast along columns, where it adds whole rows, and slow along rows,
    # where it goes from pixel to pixel; turning the image costs less. A photograph takes about half the time.
    rows = _resize_columns(tf.reshape(images, [-1, shape[-3], shape[-2] * channels]), height, interpolation)
    turned = tf.transpose(tf.reshape(rows, [-1, height, shape[-2], channels]), [0, 2, 1, 3])
    columns = _resize_columns(tf.reshape(turned, [-1, shape[-2], height * channels]), width, interpolation)
    resized = tf.transpose(tf.reshape(columns, [-1, width, height, channels]), [0, 2, 1, 3])
    resized = tf.reshape(resized, tf.concat([shape[:-3], [height, width, channels]], axis=0))
    # Bicubic and Lanczos overshoot at edges, and bilinear by a rounding; Pillow's 8 bits cannot, so neither does this.
    return tf.clip_by_value(resized, 0.0, 255.0)


def _resize_columns(columns: tf.Tensor, length: Any, interpolation: str) -> tf.Tensor:
    """Columns of any number and one length, [N, height, columns], to another length: float32 [N, length, columns]."""
    scale = tf.cast(length, tf.float32) / tf.cast(tf.shape(columns)[1], tf.float32)
    resized = tf.raw_ops.ScaleAndTranslate(
        images=columns[:, :, tf.newaxis],
        size=tf.stack([length, 1]),
        scale=tf.stack([scale, 1.0]),
        translation=[0.0, 0.0],
        kernel_type=_KERNELS[interpolation],
        antialias=True,
    )
    return resized[:, :, 0]


def _resize_and_crop(images: tf.Tensor, target: tuple[int, int], preprocessing: Preprocessing) -> tf.Tensor:
    height, width = target
    cover_height = round(height / preprocessing.crop_fraction)
    cover_width = round(width / preprocessing.crop_fraction)
    # Whole-number arithmetic, so that the size never depends on the rounding of a quotient. The longer side is rounded
    # down, as torchvision does it, but never below what the crop needs.
    known = images.shape[-3:-1]
    if known.is_fully_defined():
        # Of one image the arithmetic alone would take longer than its operators, and equal sizes need none.
        image_height, image_width = known
        if image_height * cover_width >= image_width * cover_height:
            size = (max(image_height * cover_width // image_width, cover_height), cover_width)
        else:
            size = (cover_height, max(image_width * cover_height // image_height, cover_width))
        resized = _resize(images, size, preprocessing.interpolation)
        top, left = (round((whole - part) / 2) for whole, part in zip(size, target, strict=True))
        return resized[..., top : top + height, left : left + width, :]
    shape = tf.shape(images)
    image_height, image_width = shape[-3], shape[-2]
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
