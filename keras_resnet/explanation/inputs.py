"""What is explained: models from any artifact, images from files, folders and arrays; and the way back to the image.

A heat map is drawn at the network's input size. `place_maps` lays it back onto the original image, whatever resizing
and cropping lay between.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.artifact import Artifact
from keras_resnet.data.images import image_files, read_image
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import preprocess
from keras_resnet.errors import UserError
from keras_resnet.explanation.maps import resize_maps


def network_inputs(
    model: keras.Model, images: Any, preprocessing: Preprocessing | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Checks images and brings them to the network's input.

    Args:
        model: The network.
        images: [N, H, W, C]: network inputs, or pixels 0..255 with `preprocessing`.
        preprocessing: What stands between pixels and inputs.

    Returns:
        float32 network inputs [N, h, w, c], and (H, W) of what was given.

    Raises:
        UserError: The images do not fit the network, or hold NaN.
    """
    images = np.asarray(images)
    if images.ndim == 3:
        raise UserError(f"Images come as a batch (N, height, width, channels), got one image {images.shape}.")
    if images.ndim != 4 or images.dtype.kind not in "uif":
        raise UserError(f"Images are numbers (N, height, width, channels), got {images.dtype} of shape {images.shape}.")
    if not np.isfinite(images).all():
        raise UserError("The images hold NaN or infinity. Replace those pixels.")
    size = images.shape[1:3]
    if preprocessing is not None:
        if images.shape[-1] not in (1, 3):
            raise UserError(f"Images have 1 channel (grey) or 3 (colour), got {images.shape[-1]}.")
        inputs = preprocess(images, preprocessing).numpy() if len(images) else _no_inputs(preprocessing)
    else:
        inputs = images.astype(np.float32)
    expected = model.input_shape[1:]
    if any(want is not None and have != want for have, want in zip(inputs.shape[1:], expected, strict=True)):
        raise UserError(
            f"Model {model.name!r} takes images {tuple(expected)}, got {inputs.shape[1:]}: resize them, or give "
            "the preprocessing that does."
        )
    return inputs, (int(size[0]), int(size[1]))


def _no_inputs(preprocessing: Preprocessing) -> np.ndarray:
    return np.zeros((0, preprocessing.height, preprocessing.width, preprocessing.channels), np.float32)


def place_maps(maps: np.ndarray, preprocessing: Preprocessing | None, size: tuple[int, int]) -> np.ndarray:
    """Lays maps at the network's size back onto original images of one size.

    Args:
        maps: float32 [N, h, w], 0..1.
        preprocessing: How the images came to the network's size; None where they had it.
        size: (H, W) of the original images.

    Returns:
        float32 [N, H, W], 0..1. What a centre crop cut away is 0: the network did not see it.
    """
    if maps.shape[1:] == size:
        return maps
    if preprocessing is None or preprocessing.resize == "squash":
        return np.clip(resize_maps(tf.constant(maps), *size).numpy(), 0, 1)
    top, left, bottom, right = seen_box(preprocessing, size)
    placed = np.zeros((len(maps), *size), np.float32)
    inside = resize_maps(tf.constant(maps), bottom - top, right - left).numpy()
    placed[:, top:bottom, left:right] = np.clip(inside, 0, 1)
    return placed


def seen_box(preprocessing: Preprocessing, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns (top, left, bottom, right) of what the network saw of an image of `size` = (H, W)."""
    height, width = size
    if preprocessing.resize == "squash":
        return 0, 0, height, width
    # The image covers the target over crop_fraction, and the target is cut from its centre.
    scale = max(preprocessing.height / height, preprocessing.width / width) / preprocessing.crop_fraction
    seen_height = min(height, max(1, round(preprocessing.height / scale)))
    seen_width = min(width, max(1, round(preprocessing.width / scale)))
    top, left = (height - seen_height) // 2, (width - seen_width) // 2
    return top, left, top + seen_height, left + seen_width


def read_images(paths: Sequence[str | os.PathLike[str]], channels: int) -> Iterator[tuple[Path, np.ndarray | str]]:
    """Reads image files one after another.

    Yields:
        (path, uint8 [H, W, C]), or (path, why it cannot be read).
    """
    for path, problem in image_files(paths):
        if problem is not None:
            yield Path(path), problem
            continue
        try:
            yield Path(path), read_image(path, channels)
        except UserError as error:
            yield Path(path), str(error)


def spread(count: int, limit: int) -> np.ndarray:
    """Returns `limit` positions spread evenly over `count` examples, or all of them."""
    return np.arange(count) if limit >= count else np.linspace(0, count - 1, limit).round().astype(int)


def split_masks(split, positions: np.ndarray, artifact: Artifact) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns the object's and the mark's masks of examples, bool [n, h, w]; None where they are not known.

    Masks are those of the original image, so they fit where the network takes it whole and at its size.
    """
    size = (artifact.preprocessing.height, artifact.preprocessing.width)
    masks = []
    for given in (split.masks, split.mark_masks):
        fits = given is not None and given.shape[1:] == size and given.any()
        masks.append(given[positions] if fits else None)
    return masks[0], masks[1]
