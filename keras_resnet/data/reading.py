"""Examples of a split as tensors: from arrays, image files or record files, decoded but not yet resized.

Memory: decoded images are kept, 8 bits a channel, as long as those of all splits in use take at most
`MEMORY_LIMIT_BYTES`: then only the first epoch decodes. Larger splits are decoded anew in every epoch.
"""

import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data.decoding import Choice, cut_out, decode_image, decode_jpeg, decode_jpeg_part
from keras_resnet.data.images import decode_with_pillow, read_image
from keras_resnet.data.order import RECORDS, draw_seeds, permutation
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.splits import (
    DECODER_JPEG,
    DECODER_PILLOW,
    ArraySplit,
    FileSplit,
    RecordSplit,
    Split,
    StreamSplit,
)
from keras_resnet.data.transforms import resize_image
from keras_resnet.errors import UserError

MEMORY_LIMIT_BYTES = 1 << 30

_INTERLEAVED_FILES = 16
_SHUFFLE_BUFFER = 10_000


@dataclass(frozen=True)
class Reader:
    """A split as functions of the graph.

    Attributes:
        example: What `ordered` and `in_sequence` hold → (uint8 image [h, w, c], int32 label).
        ordered: (seed, epoch) → dataset of the epoch's examples.
        takes_positions: Whether examples are their positions, int32, so that any other order can be had.
        in_sequence: () → dataset of all examples in the split's order.
        batch: int positions [n] → (uint8 images [n, h, w, c], int32 labels [n]); None where sizes differ or images are
            not in memory.
        part: (example, rectangle) → (uint8 part of the image, label), for examples that are decoded anew each time, of
            which no more than that part has to be; None where images are in memory.
    """

    example: Callable[[Any], tuple[tf.Tensor, tf.Tensor]]
    ordered: Callable[[int, tf.Tensor], tf.data.Dataset]
    in_sequence: Callable[[], tf.data.Dataset]
    takes_positions: bool = False
    batch: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]] | None = None
    part: Callable[[Any, Choice], tuple[tf.Tensor, tf.Tensor]] | None = None


def open_split(split: Split, channels: int, *, keep: bool = True) -> Reader:
    """Opens a split.

    Args:
        split: The examples.
        channels: 1 or 3, what image files are decoded to; arrays have their own.
        keep: Whether decoded files may stay in memory.

    Returns:
        How to read it.
    """
    if isinstance(split, StreamSplit):
        return _open_stream(split, channels)
    labels = _on_host(np.asarray(split.labels, np.int32))
    pixels = _pixels(split, channels, keep=keep)
    read = _file_reader(split, channels) if pixels is None else _memory_reader(split, pixels, channels)
    is_batch = pixels is not None and pixels.shape.rank == 4

    def with_label(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return read(position), tf.gather(labels, position)

    def part(position: tf.Tensor, choose: Choice) -> tuple[tf.Tensor, tf.Tensor]:
        return _read_part(split, channels, position, choose), tf.gather(labels, position)

    return Reader(
        example=with_label,
        ordered=lambda seed, epoch: tf.data.Dataset.from_tensor_slices(permutation(seed, epoch, len(split))),
        takes_positions=True,
        in_sequence=lambda: tf.data.Dataset.range(len(split), output_type=tf.int32),
        batch=with_label if is_batch else None,
        part=part if pixels is None else None,
    )


@tf.autograph.experimental.do_not_convert
def examples_at(
    split: Split, preprocessing: Preprocessing, positions: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Reads some examples.

    Args:
        split: The examples.
        preprocessing: The network's input.
        positions: Which ones, 0..len(split) - 1, in any order.

    Returns:
        (images, labels): float32 [n, height, width, channels] at the network's size, 0..255, not normalized, and int32
        [n], in the order of the positions.
    """
    positions = np.asarray(positions, np.int64)
    reader = open_split(split, preprocessing.channels, keep=False)

    def one_image(example: Any) -> tf.Tensor:
        return resize_image(reader.example(example)[0], preprocessing)

    shape = (len(positions), preprocessing.height, preprocessing.width, preprocessing.channels)
    images = np.empty(shape, np.float32)
    if isinstance(split, StreamSplit):
        wanted = tf.constant(np.unique(positions))
        numbered = reader.in_sequence().enumerate()
        numbered = numbered.filter(lambda position, _: tf.reduce_any(tf.equal(position, wanted))).take(len(wanted))
        for position, image in parallel_map(numbered, lambda number, record: (number, one_image(record))):
            images[positions == int(position)] = image
    else:
        read = parallel_map(tf.data.Dataset.from_tensor_slices(positions), one_image)
        for row, image in enumerate(read.as_numpy_iterator()):
            images[row] = image
    return images, np.asarray(split.labels, np.int32)[positions]


def file_reader(preprocessing: Preprocessing) -> Callable[[bytes, str], np.ndarray]:
    """Returns a function from an image file to the network's size, for files of which nothing is known.

    JPEG files without EXIF are decoded and resized in one graph, which takes half as long; all others, and those that
    are not complete, are read by Pillow. Both decode alike to the bit.

    Args:
        preprocessing: The network's input.

    Returns:
        (contents, what an error calls the file) → float32 [height, width, channels], 0..255, not normalized. Raises a
        UserError for what is no complete image. Threads may call it at once.
    """

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    def from_jpeg(contents: tf.Tensor) -> tf.Tensor:
        return resize_image(decode_jpeg(contents, preprocessing.channels), preprocessing)

    def read(contents: bytes, name: str) -> np.ndarray:
        if contents[:3] == b"\xff\xd8\xff" and b"Exif" not in contents:
            with contextlib.suppress(tf.errors.InvalidArgumentError):
                return from_jpeg(contents).numpy()
        return resize_image(decode_with_pillow(contents, preprocessing.channels, name=name), preprocessing).numpy()

    return read


def sample_images(
    split: Split, preprocessing: Preprocessing, count: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draws examples evenly over the classes, for calibration and comparison of exported models.

    Args:
        split: Where to draw from.
        preprocessing: The network's input.
        count: How many at most; the whole split where it has no more.
        seed: What the choice depends on.

    Returns:
        (images, labels) as `examples_at` returns them. The classes take turns, so that any first part of the sample is
        even as well.

    Raises:
        UserError: The count is below 1.
    """
    if count < 1:
        raise UserError(f"The number of images to sample must be at least 1, got {count}.")
    labels = split.labels
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)  # how many of its class come before an example
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        turn[members] = np.arange(len(members))
    return examples_at(split, preprocessing, shuffled[np.argsort(turn[shuffled], kind="stable")][:count])


def parallel_map(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """Maps on as many threads as pay; the order stays."""
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _memory_reader(
    split: ArraySplit | FileSplit | RecordSplit, pixels: tf.Tensor, channels: int
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Position → uint8 image; many positions at once where all images have one size."""
    if pixels.shape.rank == 4:
        return lambda position: tf.gather(pixels, position)
    sizes = _on_host(np.asarray(split.sizes, np.int64))
    lengths = np.prod(split.sizes.astype(np.int64), axis=1) * channels
    starts = _on_host(np.concatenate([[0], np.cumsum(lengths)[:-1]]))

    def unflatten(position: tf.Tensor) -> tf.Tensor:
        height, width = tf.unstack(tf.gather(sizes, position))
        start = tf.gather(starts, position)
        return tf.reshape(pixels[start : start + height * width * channels], [height, width, channels])

    return unflatten


def _encoded_reader(split: FileSplit | RecordSplit) -> Callable[[tf.Tensor], tf.Tensor]:
    """Position → the bytes of the encoded image, a scalar string."""
    if isinstance(split, FileSplit):
        paths = _on_host(np.array(split.paths))
        return lambda position: tf.io.read_file(tf.gather(paths, position))

    def read(position: tf.Tensor) -> tf.Tensor:
        contents = tf.numpy_function(lambda number: split.read(int(number)), [position], tf.string)
        return tf.ensure_shape(contents, [])

    return read


def _file_reader(split: FileSplit | RecordSplit, channels: int) -> Callable[[tf.Tensor], tf.Tensor]:
    encoded, decoders = _encoded_reader(split), _on_host(split.decoders)

    def pixels(position: np.ndarray) -> np.ndarray:
        number = int(position)
        if isinstance(split, FileSplit):
            return read_image(split.paths[number], channels)
        return decode_with_pillow(split.read(number), channels, name=split.name(number))

    def with_pillow(position: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(pixels, [position], tf.uint8), [None, None, channels])

    def read(position: tf.Tensor) -> tf.Tensor:
        if (split.decoders == DECODER_JPEG).all():
            return decode_jpeg(encoded(position), channels)
        if (split.decoders != DECODER_PILLOW).all():
            return decode_image(encoded(position), channels)
        needs_pillow = tf.equal(tf.gather(decoders, position), DECODER_PILLOW)
        return tf.cond(needs_pillow, lambda: with_pillow(position), lambda: decode_image(encoded(position), channels))

    return read


def _read_part(split: FileSplit | RecordSplit, channels: int, position: tf.Tensor, choose: Choice) -> tf.Tensor:
    """The rectangle of an image in a file, of which an upright JPEG file has no more decoded."""
    encoded = _encoded_reader(split)

    def jpeg() -> tf.Tensor:
        return decode_jpeg_part(encoded(position), channels, choose)

    is_jpeg = split.decoders == DECODER_JPEG
    if is_jpeg.all():
        return jpeg()
    read = _file_reader(split, channels)
    return tf.cond(tf.gather(_on_host(is_jpeg), position), jpeg, lambda: cut_out(read(position), choose))


def _open_stream(split: StreamSplit, channels: int) -> Reader:
    paths, skips, takes = zip(*split.instructions, strict=True)
    paths, skips, takes = tf.constant(paths), tf.constant(skips, tf.int64), tf.constant(takes, tf.int64)
    features = {
        split.image_key: tf.io.FixedLenFeature([], tf.string),
        split.label_key: tf.io.FixedLenFeature([], tf.int64),
    }

    def read(path: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(path, buffer_size=1 << 20).skip(skip).take(take)

    def example(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_single_example(record, features)
        # TensorFlow Datasets writes JPEG or PNG, and this operator reads both, several times faster than `decode_image`
        # finds out which of five formats it is.
        return decode_jpeg(parsed[split.image_key], channels), tf.cast(parsed[split.label_key], tf.int32)

    def part(record: tf.Tensor, choose: Choice) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_single_example(record, features)
        image = decode_jpeg_part(parsed[split.image_key], channels, choose)
        return image, tf.cast(parsed[split.label_key], tf.int32)

    def ordered(seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
        order = permutation(seed, epoch, len(split.instructions))
        files = tf.data.Dataset.from_tensor_slices(tuple(tf.gather(part, order) for part in (paths, skips, takes)))
        records = files.interleave(
            read, cycle_length=_INTERLEAVED_FILES, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        buffer_seed = tf.cast(draw_seeds(seed, epoch, RECORDS, 1)[0, 0], tf.int64)
        # `shuffle` mixes its seed with the process's, on which the order must not depend, and trips over a process's
        # seed of 0. This function is traced into a graph of its own, whose seed this sets and no other.
        tf.compat.v1.set_random_seed(1)
        return records.shuffle(min(len(split), _SHUFFLE_BUFFER), buffer_seed, reshuffle_each_iteration=False)

    def in_sequence() -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices((paths, skips, takes)).flat_map(read)

    return Reader(example, ordered, in_sequence, part=part)


# Split → channels → its pixels. A split that nobody holds any longer takes its pixels with it.
_kept: "weakref.WeakKeyDictionary[Split, dict[int, tf.Tensor]]" = weakref.WeakKeyDictionary()
_kept_lock = threading.Lock()


def _pixels(split: ArraySplit | FileSplit | RecordSplit, channels: int, *, keep: bool) -> tf.Tensor | None:
    """All pixels of a split: uint8 [N, h, w, c] for one size, flat for several; None where they would not fit."""
    is_files = not isinstance(split, ArraySplit)
    key = channels if is_files else 0  # arrays keep their own channels until `resize_image`
    with _kept_lock:
        held = _kept.get(split, {})
        if key in held:
            return held[key]
        if not is_files:
            pixels = _on_host(split.images)
        else:
            needed = int(np.prod(split.sizes.astype(np.int64), axis=1).sum()) * channels
            in_use = sum(tensor.shape.num_elements() for tensors in _kept.values() for tensor in tensors.values())
            if not keep or in_use + needed > MEMORY_LIMIT_BYTES:
                return None
            pixels = _on_host(_decode_all(split, channels, needed))
        _kept.setdefault(split, {})[key] = pixels
        return pixels


@tf.autograph.experimental.do_not_convert
def _decode_all(split: FileSplit | RecordSplit, channels: int, needed: int) -> np.ndarray:
    images = parallel_map(tf.data.Dataset.range(len(split)), _file_reader(split, channels))
    flat = np.empty(needed, np.uint8)
    one_size = (split.sizes == split.sizes[0]).all()
    if one_size:
        images = images.batch(256)
    start = 0
    for part in images.prefetch(2).as_numpy_iterator():
        flat[start : start + part.size] = part.reshape(-1)
        start += part.size
    return flat.reshape(len(split), *split.sizes[0], channels) if one_size else flat


def _on_host(array: np.ndarray) -> tf.Tensor:
    # tf.data runs on the processor: a tensor that landed on a GPU would be copied back for every batch.
    with tf.device("CPU:0"):
        return tf.convert_to_tensor(array)
