"""Random changes to training images, as a table of names. Evaluation and serving never come here.

Every choice is stateless: it hangs on the seed that is passed, so that a resumed run draws what an
uninterrupted one would have drawn. An augmentation has a part for one image at its own size, which brings it
to the network's size, and a part for a whole batch at that size, which is many times faster where all images
of a batch take the same steps.

References: K. He et al., "Deep Residual Learning for Image Recognition", section 4.2 (crop_flip); C. Szegedy
    et al.,
"Going Deeper with Convolutions", section 6 (inception_crop_flip).
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import resize_image
from keras_resnet.errors import unknown_name

PADDING = 4  # pixels a side, for images of 32 × 32; other sizes get the same part, an eighth of the side

_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_ATTEMPTS = 10
_ALGORITHM = "philox"  # named, because the default differs between devices


@dataclass(frozen=True)
class Augmentation:
    """One row of the table.

    Attributes:
        summary: What it does, in one line.
        image: (image [h, w, c] 0..255, seed int32 [2], preprocessing) → float32 image at the network's size,
            0..255; None where images are only resized.
        batch: (images [N, height, width, channels] 0..255, seed int32 [2]) → images of the same shape and
            dtype; None where nothing is left to do.
    """

    summary: str
    image: Callable[[tf.Tensor, tf.Tensor, Preprocessing], tf.Tensor] | None = None
    batch: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None


def get_augmentation(name: str) -> Augmentation:
    """Looks an augmentation up by name; UserError with the closest names where there is none."""
    if name not in AUGMENTATIONS:
        raise unknown_name("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]


def augment_image(name: str, image: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Augments a single image.

    Args:
        name: A name of `AUGMENTATIONS`.
        image: [height, width, 1 or 3], uint8 or float, 0..255, of any size.
        seed: int32 [2].
        preprocessing: The network's input.

    Returns:
        float32 tensor [preprocessing.height, preprocessing.width, preprocessing.channels], 0..255.
    """
    augmentation = get_augmentation(name)
    if augmentation.image is not None:
        image = augmentation.image(image, seed, preprocessing)
    else:
        image = resize_image(image, preprocessing)
    if augmentation.batch is not None:
        image = augmentation.batch(image[tf.newaxis], seed)[0]
    return image


def random_crop(images: tf.Tensor, seed: tf.Tensor, *, flip: bool) -> tf.Tensor:
    """Shifts every image of a batch by up to an eighth of its side, filling with black, and mirrors half of
    them.

    This is padding by 4 (at 32 × 32) followed by a random crop to the old size.

    Args:
        images: [N, height, width, channels], any numeric dtype.
        seed: int32 [2].
        flip: Whether images are mirrored, each with probability 1/2.

    Returns:
        Tensor of the same shape and dtype.
    """
    count = tf.shape(images)[0]
    height, width, channels = images.shape[1:]
    pad_y, pad_x = (max(1, side * PADDING // 32) for side in (height, width))
    seeds = tf.random.split(seed, 3, alg=_ALGORITHM)

    def draw(which: int, limit: int) -> tf.Tensor:
        return tf.random.stateless_uniform([count, 1], seeds[which], 0, limit, tf.int32, alg=_ALGORITHM)

    rows = tf.range(height) + draw(0, 2 * pad_y + 1)
    columns = tf.tile(tf.range(width)[tf.newaxis], [count, 1])
    if flip:
        columns = tf.where(draw(2, 2) == 1, width - 1 - columns, columns)
    columns += draw(1, 2 * pad_x + 1)
    padded = tf.pad(images, [[0, 0], [pad_y, pad_y], [pad_x, pad_x], [0, 0]])
    # One gather of pixels through flat positions: 9 µs an image of 32 × 32, a fourth of slicing image by
    # image.
    full_height, full_width = height + 2 * pad_y, width + 2 * pad_x
    first = tf.range(count)[:, tf.newaxis, tf.newaxis] * (full_height * full_width)
    positions = first + rows[:, :, tf.newaxis] * full_width + columns[:, tf.newaxis, :]
    return tf.ensure_shape(tf.gather(tf.reshape(padded, [-1, channels]), positions), [None, height, width, channels])


def random_resized_crop(image: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Cuts out a random rectangle, brings it to the network's size and mirrors it with probability 1/2.

    The rectangle has 8 to 100 % of the image's area and proportions between 3:4 and 4:3 (drawn evenly in
    their logarithm), at the first of ten attempts that fits into the image; where none does, it is the
    largest centred rectangle within those proportions.

    Args:
        image: [height, width, 1 or 3], uint8 or float, 0..255.
        seed: int32 [2].
        preprocessing: The network's input.

    Returns:
        float32 tensor [preprocessing.height, preprocessing.width, preprocessing.channels], 0..255.
    """
    shape = tf.shape(image)
    height, width = shape[0], shape[1]
    full_height, full_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    draws = tf.random.stateless_uniform([2 * _ATTEMPTS + 3], seed, alg=_ALGORITHM)
    area = (_AREA[0] + (_AREA[1] - _AREA[0]) * draws[:_ATTEMPTS]) * full_height * full_width
    low, high = (math.log(value) for value in _ASPECT)
    aspect = tf.exp(low + (high - low) * draws[_ATTEMPTS : 2 * _ATTEMPTS])
    widths = tf.cast(tf.round(tf.sqrt(area * aspect)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(area / aspect)), tf.int32)
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    chosen = tf.argmax(tf.cast(fits, tf.int32), output_type=tf.int32)
    own_aspect = tf.clip_by_value(full_width / full_height, *_ASPECT)
    fallback_width = tf.minimum(tf.cast(tf.round(full_height * own_aspect), tf.int32), width)
    fallback_height = tf.minimum(tf.cast(tf.round(full_width / own_aspect), tf.int32), height)
    any_fits = tf.reduce_any(fits)
    crop_height = tf.where(any_fits, heights[chosen], tf.maximum(fallback_height, 1))
    crop_width = tf.where(any_fits, widths[chosen], tf.maximum(fallback_width, 1))
    draw_y, draw_x, draw_flip = tf.unstack(draws[2 * _ATTEMPTS :])

    def offset(draw: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
        return tf.minimum(tf.cast(draw * tf.cast(room + 1, tf.float32), tf.int32), room)

    top = tf.where(any_fits, offset(draw_y, height - crop_height), (height - crop_height) // 2)
    left = tf.where(any_fits, offset(draw_x, width - crop_width), (width - crop_width) // 2)
    crop = image[top : top + crop_height, left : left + crop_width, :]
    crop = tf.ensure_shape(crop, [None, None, image.shape[-1]])
    squashed = _resize_to_network(crop, preprocessing)
    return tf.cond(draw_flip < 0.5, lambda: squashed[:, ::-1, :], lambda: squashed)


def _resize_to_network(crop: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    # A crop was already made: its whole area counts, whatever evaluation does.
    return resize_image(crop, dataclasses.replace(preprocessing, resize="squash"))


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation("images as they are"),
    "crop": Augmentation(
        "shift by up to an eighth of the side",
        batch=lambda images, seed: random_crop(images, seed, flip=False),
    ),
    "crop_flip": Augmentation(
        "shift by up to an eighth of the side, mirror every other image",
        batch=lambda images, seed: random_crop(images, seed, flip=True),
    ),
    "inception_crop_flip": Augmentation(
        "random rectangle of 8 to 100 % of the area, mirror every other image; for photographs",
        image=random_resized_crop,
    ),
}
