"""Sheets of training images as an augmentation changes them, to be looked at before a training."""

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_resnet.data.augmentation import parse_augmentation
from keras_resnet.data.order import BATCHES, IMAGES, draw_seeds
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.reading import open_split
from keras_resnet.data.splits import Split
from keras_resnet.data.transforms import resize_image
from keras_resnet.errors import UserError

READABLE = 96  # smaller images are enlarged a whole number of times until their shorter side has so many pixels

_GAP, _FIRST_GAP = 4, 16  # the image as evaluation sees it stands apart from its variants
_PAPER = 255


def draw_augmentation(
    split: Split,
    preprocessing: Preprocessing,
    augmentation: str,
    *,
    images: int = 6,
    variants: int = 7,
    seed: int = 0,
) -> Image.Image:
    """Draws a sheet: a row per image, first as evaluation sees it, then as training may see it.

    A column of variants is a batch: steps that mix images mix those of the column.

    Args:
        split: Where the images are drawn from.
        preprocessing: The network's input.
        augmentation: What `parse_augmentation` reads.
        images: How many images; all of the split where it has no more.
        variants: How many variants of each.
        seed: What the choice of images and their changes depend on, 0..2³¹-1.

    Returns:
        The sheet in RGB, each image at the network's size or enlarged to at least `READABLE` pixels.

    Raises:
        UserError: The augmentation is unknown, or a number is out of range.
    """
    for name, value in (("images", images), ("variants", variants)):
        if value < 1:
            raise UserError(f"A sheet needs at least 1 of its {name}, got {value}.")
    if not 0 <= seed < 2**31:
        raise UserError(f"The seed must lie in 0..2147483647, got {seed}.")
    augment = parse_augmentation(augmentation)
    reader = open_split(split, preprocessing.channels, keep=False)
    chosen = reader.ordered(seed, tf.constant(0)).take(min(images, len(split)))
    originals, labels = zip(*(reader.example(example) for example in chosen), strict=True)
    labels = tf.stack(labels)
    columns = [np.stack([resize_image(image, preprocessing) for image in originals])]
    for number in range(variants):
        image_seeds = draw_seeds(seed, tf.constant(number), IMAGES, len(originals))
        batch_seed = draw_seeds(seed, tf.constant(number), BATCHES, 1)[0]
        changed = [
            augment.change_image(image, own, preprocessing) for image, own in zip(originals, image_seeds, strict=True)
        ]
        # Without names the targets have no classes, but they are not looked at.
        batch, _ = augment.change_batch(tf.stack(changed), labels, batch_seed, max(1, len(preprocessing.labels)))
        columns.append(batch.numpy())
    return _sheet(np.stack(columns, axis=1))


def _sheet(pictures: np.ndarray) -> Image.Image:
    """Lays pictures [rows, columns, height, width, 1 or 3], 0..255, out on paper."""
    pixels = np.clip(np.rint(pictures), 0, 255).astype(np.uint8)
    times = -(-READABLE // min(pixels.shape[2:4]))
    pixels = np.broadcast_to(pixels, (*pixels.shape[:-1], 3)).repeat(times, axis=2).repeat(times, axis=3)
    rows, columns, height, width, _ = pixels.shape
    size = (_FIRST_GAP + columns * (width + _GAP), _GAP + rows * (height + _GAP))
    sheet = Image.new("RGB", size, (_PAPER,) * 3)
    for row in range(rows):
        for column in range(columns):
            left = _GAP + column * (width + _GAP) + (_FIRST_GAP - _GAP if column else 0)
            sheet.paste(Image.fromarray(pixels[row, column]), (left, _GAP + row * (height + _GAP)))
    return sheet
