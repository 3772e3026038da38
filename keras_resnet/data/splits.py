"""Splits: where the examples of a part of a data set lie, and the fixed rule by which such parts are cut.

This module imports neither TensorFlow nor Pillow.
"""

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_resnet.data.ranges import RangeFile
from keras_resnet.errors import UserError

# How a file is decoded (FileSplit.decoders).
DECODER_JPEG, DECODER_TENSORFLOW, DECODER_PILLOW = 0, 1, 2


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """Examples in memory.

    Attributes:
        images: uint8 [N, height, width, 1 or 3], 0..255, RGB.
        labels: int32 [N].
        masks: bool [N, height, width], where the object is; None where nobody knows.
        mark_masks: bool [N, height, width], where a planted mark is (see the source `shapes`); None without marks.
    """

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None
    mark_masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, chosen: np.ndarray) -> "ArraySplit":
        """Returns the examples at some positions, int [n]."""
        return ArraySplit(*(None if array is None else array[chosen] for array in vars(self).values()))


@dataclass(frozen=True, eq=False)
class FileSplit:
    """Examples in image files, each of which was checked when the folder was scanned.

    Attributes:
        paths: The files.
        labels: int32 [N].
        sizes: int32 [N, 2], height and width of the upright image.
        decoders: uint8 [N]: DECODER_JPEG (an upright JPEG), DECODER_TENSORFLOW (`decode_image` reads it),
            DECODER_PILLOW (only `read_image` does).
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    sizes: np.ndarray
    decoders: np.ndarray
    masks: ClassVar[None] = None
    mark_masks: ClassVar[None] = None

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, chosen: np.ndarray) -> "FileSplit":
        """Returns the examples at some positions, int [n]."""
        paths = tuple(self.paths[position] for position in chosen)
        return FileSplit(paths, self.labels[chosen], self.sizes[chosen], self.decoders[chosen])


@dataclass(frozen=True, eq=False)
class StreamSplit:
    """Examples in the record files of TensorFlow Datasets, too large or too uneven for memory.

    Attributes:
        instructions: The record files: (path, number of records to skip, number to take).
        image_key: Name of the image feature.
        label_key: Name of the label feature.
        read_labels: Split → labels, int32 [N] in the order of the records.
    """

    instructions: tuple[tuple[str, int, int], ...]
    image_key: str
    label_key: str
    read_labels: Callable[["StreamSplit"], np.ndarray]
    masks: ClassVar[None] = None
    mark_masks: ClassVar[None] = None

    def __len__(self) -> int:
        return sum(take for _, _, take in self.instructions)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int32 [N]; the first access reads every record, without decoding images."""
        return self.read_labels(self)


@dataclass(frozen=True, eq=False)
class RecordSplit:
    """Examples in packed record files (see `records`), any of which can be read on its own.

    Attributes:
        shards: The record files.
        places: int64 [N, 4]: number of the shard, first byte, length and CRC-32 of the encoded image.
        labels: int32 [N].
        sizes: int32 [N, 2], height and width of the upright image.
        decoders: uint8 [N], as those of a `FileSplit`.
    """

    shards: tuple[RangeFile, ...]
    places: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    decoders: np.ndarray
    masks: ClassVar[None] = None
    mark_masks: ClassVar[None] = None

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, chosen: np.ndarray) -> "RecordSplit":
        """Returns the examples at some positions, int [n]."""
        rows = (array[chosen] for array in (self.places, self.labels, self.sizes, self.decoders))
        return RecordSplit(self.shards, *rows)

    def name(self, position: int) -> str:
        """What an error calls an example."""
        shard, start = self.places[position, :2]
        return f"the image at byte {start:,} of {self.shards[shard].path}"

    def read(self, position: int) -> bytes:
        """Returns an image as it is encoded.

        Raises:
            UserError: It cannot be read, or is not what was packed.
        """
        shard, start, length, checksum = self.places[position].tolist()
        try:
            contents = self.shards[shard].read(start, length)
        except OSError as error:
            raise UserError(f"Cannot read {self.name(position)}: {error.strerror or error}. Try again.") from None
        if zlib.crc32(contents) != checksum:
            raise UserError(
                f"An image must be the one that was packed, {self.name(position)} is not: the file was changed or "
                "damaged. Copy or pack it again."
            )
        return contents


Split = ArraySplit | FileSplit | RecordSplit | StreamSplit


def worker_rows(batch_size: int, worker: int, workers: int) -> slice:
    """Names the rows of every global batch that one of several workers takes.

    Order and batches are functions of (seed, epoch) alone, equal on all workers; so together they see every example of
    a batch once.

    Args:
        batch_size: Examples of a global batch; the workers share it evenly.
        worker: Number of the worker, from 0.
        workers: How many there are.

    Raises:
        UserError: There is no such worker, or the batch cannot be shared evenly.
    """
    check_batch_size(batch_size)
    if not 0 <= worker < workers:
        raise UserError(f"The number of a worker must lie in 0..{workers - 1}, got {worker}.")
    if batch_size % workers:
        raise UserError(
            f"Workers share a batch evenly, {batch_size} cannot be divided by {workers}. Choose a multiple of it."
        )
    share = batch_size // workers
    return slice(worker * share, (worker + 1) * share)


def joined(first: Split, second: Split) -> ArraySplit | FileSplit | RecordSplit:
    """Returns the examples of two splits of one data set, one behind the other.

    Raises:
        UserError: They are streams of records.
    """
    if isinstance(first, ArraySplit) and isinstance(second, ArraySplit):
        pairs = zip(vars(first).values(), vars(second).values(), strict=True)
        return ArraySplit(*(None if a is None or b is None else np.concatenate([a, b]) for a, b in pairs))
    if isinstance(first, FileSplit) and isinstance(second, FileSplit):
        arrays = (np.concatenate([getattr(first, n), getattr(second, n)]) for n in ("labels", "sizes", "decoders"))
        return FileSplit(first.paths + second.paths, *arrays)
    if isinstance(first, RecordSplit) and isinstance(second, RecordSplit):
        moved = second.places + np.array([len(first.shards), 0, 0, 0])
        names = ("labels", "sizes", "decoders")
        arrays = (np.concatenate([getattr(first, name), getattr(second, name)]) for name in names)
        return RecordSplit(first.shards + second.shards, np.concatenate([first.places, moved]), *arrays)
    raise UserError("Record files are read in a stream, which cannot be cut. Leave validation out, or pack them first.")


def hold_out(labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a part off a set of examples, the same fraction of every class; the cut is always the same.

    Args:
        labels: int [N].
        fraction: The part to cut off. Each class gives round(fraction · its size) examples, at least one where it has
            two, and keeps at least one.

    Returns:
        (kept, held_out): int64 arrays of positions in 0..N-1, ascending, without overlap.
    """
    labels = np.asarray(labels)
    shuffled = np.random.default_rng(20151210).permutation(len(labels))  # fixed: no setting moves an example
    held_out = []
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held_out.append(members[:count])
    chosen = np.sort(np.concatenate(held_out)) if held_out else np.zeros(0, np.int64)
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def require_examples(positions: np.ndarray, split: str, need: str) -> None:
    """Raises a UserError where a cut left a split without any example."""
    if len(positions) == 0:
        raise UserError(f"The {split} split would be empty: it needs at least {need}. Add images.")


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Returns the number of whole batches in a split; UserError where it is smaller than one batch."""
    check_batch_size(batch_size)
    if len(split) < batch_size:
        raise UserError(
            f"Training needs one full batch, but the training split has {len(split)} images "
            f"for a batch size of {batch_size}. Choose a batch size of at most {len(split)}."
        )
    return len(split) // batch_size


def check_batch_size(batch_size: int) -> None:
    """Raises a UserError for a batch size that is no whole number of at least 1."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise UserError(f"The batch size must be a whole number of at least 1, got {batch_size!r}.")


def check_epochs(*, seed: int, first_epoch: int, epochs: int, repeats: int) -> None:
    """Raises a UserError for a stream of training batches of which one of these numbers is out of range."""
    if not 0 <= seed < 2**31:
        raise UserError(f"The seed must lie in 0..2147483647, got {seed}.")
    if not 0 <= first_epoch <= epochs:
        raise UserError(f"The first epoch must lie in 0..{epochs} (the number of epochs), got {first_epoch}.")
    if repeats < 1:
        raise UserError(f"An example comes at least once in an epoch, got {repeats} repeats. Use 1 or more.")
