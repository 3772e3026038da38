"""Batches made by NumPy and Pillow, where TensorFlow is not installed: those of `batches`, bit for bit.

A batch is a function of (seed, epoch, step), so that any one can be made on its own. While the network works on one,
the next ones are made in threads. Images of files are kept, 8 bits a channel, until they take `KEPT_BYTES` together.
"""

import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import keras
import numpy as np

from keras_resnet.data import philox
from keras_resnet.data.array_transforms import normalize, resize_image
from keras_resnet.data.images import decode_with_pillow, read_image
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.splits import (
    ArraySplit,
    FileSplit,
    RecordSplit,
    Split,
    StreamSplit,
    check_batch_size,
    check_epochs,
    steps_per_epoch,
)
from keras_resnet.errors import UserError

KEPT_BYTES = 1 << 30
AHEAD = 2  # batches that are made before they are asked for

Batch = tuple[np.ndarray, np.ndarray]


class Batches(keras.utils.PyDataset):
    """A stream of batches, as often and from any place as one likes.

    Args:
        make: Number of a batch, from 0 → the batch.
        count: How many there are; None for a stream without end.
    """

    def __init__(self, make: Callable[[int], Batch], count: int | None):
        super().__init__()
        self._make, self._count = make, count
        self._begun: dict[int, Future[Batch]] = {}
        self._lock = threading.Lock()

    @property
    def num_batches(self) -> int | None:
        """How many batches there are; None for a stream without end."""
        return self._count

    def __getitem__(self, index: int) -> Batch:
        with self._lock:
            wanted = [n for n in range(index, index + 1 + AHEAD) if self._count is None or n < self._count]
            # What was made ahead for another place is dropped: someone has begun anew.
            self._begun = {number: self._begun.get(number) or _makers().submit(self._make, number) for number in wanted}
            batch = self._begun.pop(index)
        return batch.result()

    def take(self, count: int) -> "Batches":
        """Returns the first batches alone."""
        return Batches(self._make, count if self._count is None else min(count, self._count))

    def repeat(self) -> "Batches":
        """Returns the same batches over and over."""
        return Batches(lambda number: self._make(number % self._count), None)

    def as_numpy_iterator(self) -> Iterator[Batch]:
        """Returns an iterator over the batches: arrays, as they are made."""
        return iter(self)


def training_batches(
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    seed: int,
    epochs: int,
    first_epoch: int = 0,
    augmentation: str = "none",
    balanced: bool = False,
    repeats: int = 1,
    keep: bool = True,
    rows: slice | None = None,
) -> Batches:
    """Builds the stream of training batches; arguments and batches are those of `batches.training_batches`.

    Raises:
        UserError: As there, or the augmentation is not one of `AUGMENTATIONS`.
    """
    steps = steps_per_epoch(split, batch_size)
    check_epochs(seed=seed, first_epoch=first_epoch, epochs=epochs, repeats=repeats)
    change = parse_augmentation(augmentation)
    read = _reader(split, preprocessing.channels, keep=keep)
    labels = np.asarray(split.labels, np.int32)
    rows = slice(0, batch_size) if rows is None else rows
    # Steps draw for a whole batch, which is cut behind them then, else before reading.
    changes = any(name.strip() != "none" for name in augmentation.split(","))
    read_rows, kept_rows = (slice(0, batch_size), rows) if changes else (rows, slice(None))

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if balanced:
            positions = philox.balanced_positions(seed, epoch, labels)
        else:
            positions = philox.permutation(seed, epoch, len(split))
        count = steps * batch_size
        positions = np.repeat(positions[: -(-count // repeats)], repeats)[:count]
        return positions.reshape(steps, batch_size), philox.draw_seeds(seed, epoch, philox.BATCHES, steps)

    def make(number: int) -> Batch:
        epoch, step = divmod(number, steps)
        positions, seeds = order(first_epoch + epoch)
        images = _resized(read(positions[step][read_rows]), preprocessing)
        return normalize(change(images, seeds[step])[kept_rows], preprocessing), labels[positions[step][rows]]

    return Batches(make, (epochs - first_epoch) * steps)


def evaluation_batches(split: Split, preprocessing: Preprocessing, *, batch_size: int) -> Batches:
    """Builds the stream of every example of a split, in its order; see `batches.evaluation_batches`."""
    check_batch_size(batch_size)
    read = _reader(split, preprocessing.channels)
    labels = np.asarray(split.labels, np.int32)

    def make(number: int) -> Batch:
        positions = np.arange(number * batch_size, min((number + 1) * batch_size, len(split)))
        return normalize(_resized(read(positions), preprocessing), preprocessing), labels[positions]

    return Batches(make, -(-len(split) // batch_size))


def examples_at(
    split: Split, preprocessing: Preprocessing, positions: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Reads some examples, resized and not normalized; see `reading.examples_at`."""
    positions = np.asarray(positions, np.int64)
    read = _reader(split, preprocessing.channels, keep=False)
    shape = (len(positions), preprocessing.height, preprocessing.width, preprocessing.channels)
    images = np.empty(shape, np.float32)
    for row, position in enumerate(positions):
        images[row] = resize_image(read(np.array([position]))[0], preprocessing)
    return images, np.asarray(split.labels, np.int32)[positions]


def parse_augmentation(text: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Reads steps as `augmentation.parse_augmentation` does.

    Args:
        text: Names of `AUGMENTATIONS`, separated by commas.

    Returns:
        (images [n, height, width, channels], seed int32 [2]) → images of the same shape and dtype.

    Raises:
        UserError: A step is another one.
    """
    names = [name.strip() for name in text.split(",")]
    others = [name for name in names if name not in AUGMENTATIONS]
    if others:
        raise UserError(
            f"Without TensorFlow the augmentations are {', '.join(AUGMENTATIONS)}, got {others[0]!r}. Use one of them "
            "(--augmentation), or install TensorFlow, which makes the batches then: pip install tensorflow-cpu."
        )
    steps = [AUGMENTATIONS[name] for name in names if AUGMENTATIONS[name] is not None]

    def change(images: np.ndarray, seed: np.ndarray) -> np.ndarray:
        for number, step in enumerate(steps):
            images = step(images, philox.fold_in(seed, number) if number else seed)
        return images

    return change


def random_crop(images: np.ndarray, seed: np.ndarray, *, flip: bool) -> np.ndarray:
    """Shifts each image by up to an eighth of its side, and may mirror it; see `augmentation_steps.random_crop`."""
    count, height, width = images.shape[:3]
    pad_y, pad_x = (max(1, side * 4 // 32) for side in (height, width))
    seeds = philox.split(seed, 3)
    rows = np.arange(height) + philox.integers(seeds[0], (count, 1), 2 * pad_y + 1)
    columns = np.tile(np.arange(width), (count, 1))
    if flip:
        columns = np.where(philox.integers(seeds[2], (count, 1), 2) == 1, width - 1 - columns, columns)
    columns = columns + philox.integers(seeds[1], (count, 1), 2 * pad_x + 1)
    padded = np.pad(images, [(0, 0), (pad_y, pad_y), (pad_x, pad_x), (0, 0)])
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_flip(images: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Mirrors every other image of a batch, at random; see `augmentation_steps.random_flip`."""
    draw = philox.uniform(seed, (len(images), 1, 1, 1))
    return np.where(draw < 0.5, images[:, :, ::-1], images)


AUGMENTATIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray] | None] = {
    "none": None,
    "flip": random_flip,
    "crop": functools.partial(random_crop, flip=False),
    "crop_flip": functools.partial(random_crop, flip=True),
}


def _resized(images: np.ndarray | list[np.ndarray], preprocessing: Preprocessing) -> np.ndarray:
    """A batch at the network's size; left in 8 bits where nothing is to resize."""
    if isinstance(images, list):
        return np.stack([resize_image(image, preprocessing) for image in images])
    size = (preprocessing.height, preprocessing.width, preprocessing.channels)
    return images if images.shape[1:] == size else resize_image(images, preprocessing)


def _reader(split: Split, channels: int, *, keep: bool = True) -> Callable[[np.ndarray], np.ndarray | list[np.ndarray]]:
    """Positions → uint8 images: one array of a split in memory, a list of those of files."""
    if isinstance(split, StreamSplit):
        raise UserError("Record files need TensorFlow, which is not installed: pip install tensorflow-cpu.")
    if isinstance(split, ArraySplit):
        return lambda positions: split.images[positions]

    def read(position: int) -> np.ndarray:
        kept = _kept.setdefault(split, _Kept())
        image = kept.images.get((position, channels))
        if image is None:
            if isinstance(split, RecordSplit):
                image = decode_with_pillow(split.read(position), channels, name=split.name(position))
            else:
                image = read_image(split.paths[position], channels)
            with _keeping:
                if keep and sum(each.size for each in _kept.values()) + image.nbytes <= KEPT_BYTES:
                    kept.images[position, channels] = image
                    kept.size += image.nbytes
        return image

    return lambda positions: list(_readers().map(read, positions.tolist()))


class _Kept:
    """Decoded images of a split, (position, channels) → uint8 pixels, and how many bytes they are."""

    def __init__(self) -> None:
        self.images: dict[tuple[int, int], np.ndarray] = {}
        self.size = 0


# A split that nobody holds any longer takes its pixels with it.
_kept: "weakref.WeakKeyDictionary[FileSplit | RecordSplit, _Kept]" = weakref.WeakKeyDictionary()
_keeping = threading.Lock()


@functools.cache
def _makers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AHEAD, thread_name_prefix="batches")


@functools.cache
def _readers() -> ThreadPoolExecutor:
    """Threads of their own: a maker waits for them."""
    return ThreadPoolExecutor(min(32, os.cpu_count() or 1), thread_name_prefix="images")
