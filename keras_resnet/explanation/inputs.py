"""What is explained: models from any artifact, images from files, folders and arrays; and the way back to the image.

A heat map is drawn at the network's input size. `place_maps` lays it back onto the original image, whatever resizing
and cropping lay between.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.artifact import Artifact
from keras_resnet.backends import as_array
from keras_resnet.data.feeding import preprocess
from keras_resnet.data.images import image_files, read_image
from keras_resnet.data.preprocessing import Preprocessing, seen_box
from keras_resnet.errors import UserError
from keras_resnet.explanation.maps import resize_maps
from keras_resnet.explanation.overlay import drawable


@dataclass(frozen=True)
class UnreadableImage:
    """A file that is not drawn.

    Attributes:
        file: The file.
        error: What is wrong with it, a sentence.
    """

    file: Path
    error: str


@dataclass(frozen=True)
class ReadImage:
    """A file that was read.

    Attributes:
        file: The file.
        pixels: uint8 [H, W, 1 or 3], no larger than a picture of it.
        network_input: float32 [height, width, channels].
    """

    file: Path
    pixels: np.ndarray
    network_input: np.ndarray


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
        inputs = preprocess(images, preprocessing) if len(images) else _no_inputs(preprocessing)
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
    top, left, bottom, right = (0, 0, *size) if preprocessing is None else seen_box(preprocessing, size)
    seen = (bottom - top, right - left)
    inside = maps if maps.shape[1:] == seen else np.clip(as_array(resize_maps(maps, *seen)), 0, 1)
    if seen == size:
        return inside
    placed = np.zeros((len(maps), *size), np.float32)
    placed[:, top:bottom, left:right] = inside
    return placed


def read_batches(
    paths: Sequence[str | os.PathLike[str]], artifact: Artifact, size: int
) -> Iterator[list[ReadImage | UnreadableImage]]:
    """Reads image files and folders of them, holding no more than one at its full size.

    Args:
        paths: The files and folders.
        artifact: Whose input they become.
        size: How many at a time.

    Yields:
        Up to `size` files, in order.
    """
    channels, batch = artifact.preprocessing.channels, []
    for path, problem in image_files(paths):
        batch.append(UnreadableImage(Path(path), problem) if problem else _read(Path(path), channels, artifact))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _read(path: Path, channels: int, artifact: Artifact) -> ReadImage | UnreadableImage:
    try:
        image = read_image(path, channels)
    except UserError as error:
        return UnreadableImage(path, str(error))
    return ReadImage(path, drawable(image), preprocess(image, artifact.preprocessing))


def read_inputs(
    paths: Sequence[str | os.PathLike[str]], artifact: Artifact, limit: int
) -> tuple[np.ndarray, list[UnreadableImage]]:
    """Reads the first images of files and folders as network inputs.

    Args:
        paths: The files and folders.
        artifact: Whose input they become.
        limit: How many at most.

    Returns:
        float32 [n, height, width, channels], n at most `limit`, and the files that could not be read.

    Raises:
        UserError: None of them can be read.
    """
    found = [image for batch in read_batches(paths, artifact, 64) for image in batch]
    inputs = [image.network_input for image in found if isinstance(image, ReadImage)]
    unreadable = [image for image in found if isinstance(image, UnreadableImage)]
    if not inputs:
        reason = f" ({unreadable[0].error})" if unreadable else ""
        raise UserError(f"There is no image that can be read{reason}. Give another file or folder.")
    return np.stack(inputs[:limit]), unreadable


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
