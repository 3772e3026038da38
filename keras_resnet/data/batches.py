"""The one place where the order of examples and the steps from an example to a batch are decided (tf.data).

    order of the epoch → read and decode → augment → batch → normalize → prefetch

What the order hangs on: the batches of epoch e depend on (seed, e), the split, the batch size, the
preprocessing and the augmentation alone, not on the epochs before, the number of threads or where a run was
interrupted. A run that starts at first_epoch=k sees bit for bit what an uninterrupted run sees from epoch k
on. Every epoch shows every example once, but for the last ones of its order, which fill no whole batch.

For arrays and files the order is a permutation of all examples. The records of a `StreamSplit` lie in files
one behind the other; there the files are permuted, sixteen of them read in turn, and the records shuffled in
a buffer of 10,000: equally a function of (seed, e), but not an even choice among all permutations.

Memory: decoded images are kept, 8 bits a channel, as long as those of all splits in use take at most
`MEMORY_LIMIT_BYTES`: then only the first epoch decodes. Larger splits are decoded anew in every epoch.

Whole batches: training drops the last, ragged batch. TensorFlow's oneDNN kernels on the processor corrupted
memory when a training step came in a second batch size.
"""

import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data.augmentation import get_augmentation
from keras_resnet.data.dataset import DECODER_JPEG, DECODER_PILLOW, ArraySplit, FileSplit, Split, StreamSplit
from keras_resnet.data.decoding import decode_image, decode_jpeg
from keras_resnet.data.images import read_image
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import normalize, preprocess, resize_image
from keras_resnet.errors import UserError

MEMORY_LIMIT_BYTES = 1 << 30

_INTERLEAVED_FILES = 16
_SHUFFLE_BUFFER = 10_000
_ALGORITHM = "philox"  # named, because the default differs between devices
_ORDER, _IMAGES, _BATCHES, _RECORDS = range(4)  # what a number is drawn for


def training_batches(
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    seed: int,
    epochs: int,
    first_epoch: int = 0,
    augmentation: str = "none",
) -> tf.data.Dataset:
    """Builds the stream of training batches.

    Args:
        split: The training examples.
        preprocessing: The network's input.
        batch_size: Examples a batch.
        seed: What order and augmentation hang on, 0..2³¹-1.
        epochs: The epoch to stop before, counted from the run's beginning, as in `keras.Model.fit`: the
            stream holds epochs first_epoch … epochs - 1.
        first_epoch: The epoch to begin with: 0, or where an interrupted run goes on.
        augmentation: A name of `augmentation.AUGMENTATIONS`.

    Returns:
        A dataset of (images, labels): float32 [batch_size, height, width, channels], normalized, and int32
        [batch_size]; steps_per_epoch(split, batch_size) batches an epoch, one epoch behind the other.

    Raises:
        UserError: The batch is larger than the split, or a number is out of range.
    """
    steps = steps_per_epoch(split, batch_size)
    if not 0 <= seed < 2**31:
        raise UserError(f"The seed must lie in 0..2147483647, got {seed}.")
    if not 0 <= first_epoch <= epochs:
        raise UserError(f"The first epoch must lie in 0..{epochs} (the number of epochs), got {first_epoch}.")
    augment = get_augmentation(augmentation)
    source = _open(split, preprocessing.channels)
    epoch_numbers = tf.data.Dataset.range(first_epoch, epochs, output_type=tf.int32)

    def batch_seeds(epoch: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(_draw_seeds(seed, epoch, _BATCHES, steps))

    def finish(images: tf.Tensor, labels: tf.Tensor, batch_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if augment.batch is not None:
            images = augment.batch(images, batch_seed)
        images = tf.ensure_shape(normalize(images, preprocessing), _batch_shape(preprocessing, batch_size))
        return images, tf.ensure_shape(labels, [batch_size])

    if source.batch is not None and augment.image is None:
        # All images have one size: a batch is gathered, and everything that follows is done to it as a whole.
        def whole_batches(epoch: tf.Tensor) -> tf.data.Dataset:
            order = tf.reshape(_order(seed, epoch, len(split))[: steps * batch_size], [steps, batch_size])
            return tf.data.Dataset.zip(tf.data.Dataset.from_tensor_slices(order), batch_seeds(epoch))

        def from_positions(positions: tf.Tensor, batch_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            images, labels = source.batch(positions)
            return finish(_at_network_size(images, preprocessing), labels, batch_seed)

        return _prefetched(_parallel(epoch_numbers.flat_map(whole_batches), from_positions))

    def one_image(example: Any, image_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, label = source.example(example)
        if augment.image is not None:
            return augment.image(image, image_seed, preprocessing), label
        return resize_image(image, preprocessing), label

    def examples(epoch: tf.Tensor) -> tf.data.Dataset:
        ordered = source.ordered(seed, epoch).take(steps * batch_size)
        image_seeds = _draw_seeds(seed, epoch, _IMAGES, steps * batch_size)
        return tf.data.Dataset.zip(ordered, tf.data.Dataset.from_tensor_slices(image_seeds))

    batches = _parallel(epoch_numbers.flat_map(examples), one_image).batch(batch_size, drop_remainder=True)
    seeded = tf.data.Dataset.zip(batches, epoch_numbers.flat_map(batch_seeds))
    return _prefetched(_parallel(seeded, lambda batch, batch_seed: finish(*batch, batch_seed)))


def evaluation_batches(split: Split, preprocessing: Preprocessing, *, batch_size: int) -> tf.data.Dataset:
    """Builds the stream of every example of a split, in the split's order, without augmentation.

    Args:
        split: The examples.
        preprocessing: The network's input.
        batch_size: Examples a batch; the last batch has fewer where the split does not divide evenly.

    Returns:
        A dataset of (images, labels): float32 [n, height, width, channels], normalized, and int32 [n].
    """
    _check_batch_size(batch_size)
    source = _open(split, preprocessing.channels)
    if source.batch is not None:

        def from_positions(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            images, labels = source.batch(positions)
            return preprocess(images, preprocessing), labels

        positions = tf.data.Dataset.range(len(split)).batch(batch_size)
        batches = _parallel(positions, from_positions)
    else:

        def one_image(example: Any) -> tuple[tf.Tensor, tf.Tensor]:
            image, label = source.example(example)
            return preprocess(image, preprocessing), label

        batches = _parallel(source.in_sequence(), one_image).batch(batch_size)
    return _prefetched(batches.apply(tf.data.experimental.assert_cardinality(-(-len(split) // batch_size))))


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Returns the number of whole batches in a split; UserError where it is smaller than one batch."""
    _check_batch_size(batch_size)
    if len(split) < batch_size:
        raise UserError(
            f"Training needs one whole batch, but the training split has {len(split)} images "
            f"for a batch size of {batch_size}. Choose a batch size of at most {len(split)}."
        )
    return len(split) // batch_size


def sample_images(
    split: Split, preprocessing: Preprocessing, count: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draws examples evenly over the classes, for calibration and comparison of exported models.

    Args:
        split: Where to draw from.
        preprocessing: The network's input.
        count: How many at most; the whole split where it has no more.
        seed: What the choice hangs on.

    Returns:
        (images, labels): float32 [n, height, width, channels] at the network's size, 0..255, not normalized,
        and int32 [n]. The classes take turns, so that any first part of the sample is even as well.
    """
    if count < 1:
        raise UserError(f"The number of images to sample must be at least 1, got {count}.")
    labels = split.labels
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)  # how many of its class come before an example
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        turn[members] = np.arange(len(members))
    chosen = shuffled[np.argsort(turn[shuffled], kind="stable")][:count]
    source = _open(split, preprocessing.channels, keep=False)

    def one_image(example: Any) -> tf.Tensor:
        return resize_image(source.example(example)[0], preprocessing)

    if isinstance(split, StreamSplit):
        place = {int(position): number for number, position in enumerate(chosen)}
        images = np.empty((len(chosen), preprocessing.height, preprocessing.width, preprocessing.channels), np.float32)
        wanted = tf.constant(np.sort(chosen))
        numbered = source.in_sequence().enumerate()
        numbered = numbered.filter(lambda position, _: tf.reduce_any(tf.equal(position, wanted)))
        for position, image in _parallel(numbered, lambda number, record: (number, one_image(record))):
            images[place[int(position)]] = image
        return images, labels[chosen]
    sampled = _parallel(tf.data.Dataset.from_tensor_slices(chosen), one_image)
    return np.stack(list(sampled.as_numpy_iterator())), labels[chosen]


class _Source:
    """A split as functions of the graph.

    Attributes:
        example: What `ordered` and `in_sequence` hold → (uint8 image [h, w, c], int32 label).
        batch: int positions [n] → (uint8 images [n, h, w, c], int32 labels [n]); None where sizes differ or
            images are not in memory.
        ordered: (seed, epoch) → dataset of the epoch's examples.
        in_sequence: () → dataset of all examples in the split's order.
    """

    def __init__(
        self,
        example: Callable[[Any], tuple[tf.Tensor, tf.Tensor]],
        ordered: Callable[[int, tf.Tensor], tf.data.Dataset],
        in_sequence: Callable[[], tf.data.Dataset],
        batch: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]] | None = None,
    ) -> None:
        self.example, self.ordered, self.in_sequence, self.batch = example, ordered, in_sequence, batch


def _open(split: Split, channels: int, *, keep: bool = True) -> _Source:
    if isinstance(split, StreamSplit):
        return _open_stream(split, channels)
    labels = _on_host(np.asarray(split.labels, np.int32))

    def ordered(seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(_order(seed, epoch, len(split)))

    def in_sequence() -> tf.data.Dataset:
        return tf.data.Dataset.range(len(split), output_type=tf.int32)

    def with_label(
        read: Callable[[tf.Tensor], tf.Tensor],
    ) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
        return lambda position: (read(position), tf.gather(labels, position))

    pixels = _pixels(split, channels, keep=keep)
    if pixels is None:
        return _Source(with_label(_file_reader(split, channels)), ordered, in_sequence)
    if pixels.shape.rank == 4:
        gather = with_label(lambda position: tf.gather(pixels, position))
        return _Source(gather, ordered, in_sequence, gather)
    sizes = _on_host(np.asarray(split.sizes, np.int64))
    lengths = np.prod(split.sizes.astype(np.int64), axis=1) * channels
    starts = _on_host(np.concatenate([[0], np.cumsum(lengths)[:-1]]))

    def cut_out(position: tf.Tensor) -> tf.Tensor:
        height, width = tf.unstack(tf.gather(sizes, position))
        start = tf.gather(starts, position)
        return tf.reshape(pixels[start : start + height * width * channels], [height, width, channels])

    return _Source(with_label(cut_out), ordered, in_sequence)


def _open_stream(split: StreamSplit, channels: int) -> _Source:
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
        # TensorFlow Datasets writes JPEG or PNG, and this operator reads both, several times faster than
        # `decode_image` finds out which of five formats it is.
        return decode_jpeg(parsed[split.image_key], channels), tf.cast(parsed[split.label_key], tf.int32)

    def ordered(seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
        order = _order(seed, epoch, len(split.instructions))
        files = tf.data.Dataset.from_tensor_slices(tuple(tf.gather(part, order) for part in (paths, skips, takes)))
        records = files.interleave(
            read, cycle_length=_INTERLEAVED_FILES, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        buffer_seed = tf.cast(_draw_seeds(seed, epoch, _RECORDS, 1)[0, 0], tf.int64)
        # `shuffle` mixes its seed with the process's, on which the order must not hang, and trips over a process's
        # seed of 0. This function is traced into a graph of its own, whose seed this sets and no other.
        tf.compat.v1.set_random_seed(1)
        return records.shuffle(min(len(split), _SHUFFLE_BUFFER), buffer_seed, reshuffle_each_iteration=False)

    def in_sequence() -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices((paths, skips, takes)).flat_map(read)

    return _Source(example, ordered, in_sequence)


def _file_reader(split: FileSplit, channels: int) -> Callable[[tf.Tensor], tf.Tensor]:
    paths, decoders = _on_host(np.array(split.paths)), _on_host(split.decoders)

    def with_tensorflow(path: tf.Tensor) -> tf.Tensor:
        return decode_image(tf.io.read_file(path), channels)

    def with_pillow(path: tf.Tensor) -> tf.Tensor:
        image = tf.numpy_function(lambda name: read_image(name.decode(), channels), [path], tf.uint8)
        return tf.ensure_shape(image, [None, None, channels])

    def read(position: tf.Tensor) -> tf.Tensor:
        path = tf.gather(paths, position)
        if (split.decoders == DECODER_JPEG).all():
            return decode_jpeg(tf.io.read_file(path), channels)
        if (split.decoders != DECODER_PILLOW).all():
            return with_tensorflow(path)
        needs_pillow = tf.equal(tf.gather(decoders, position), DECODER_PILLOW)
        return tf.cond(needs_pillow, lambda: with_pillow(path), lambda: with_tensorflow(path))

    return read


# Split → channels → its pixels. A split that nobody holds any longer takes its pixels with it.
_kept: "weakref.WeakKeyDictionary[Split, dict[int, tf.Tensor]]" = weakref.WeakKeyDictionary()
_kept_lock = threading.Lock()


def _pixels(split: ArraySplit | FileSplit, channels: int, *, keep: bool) -> tf.Tensor | None:
    """All pixels of a split: uint8 [N, h, w, c] for one size, flat for several; None where they would not
    fit.
    """
    is_files = isinstance(split, FileSplit)
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


def _decode_all(split: FileSplit, channels: int, needed: int) -> np.ndarray:
    images = _parallel(tf.data.Dataset.range(len(split)), _file_reader(split, channels))
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


def _order(seed: int, epoch: tf.Tensor, count: int) -> tf.Tensor:
    """int32 [count]: the epoch's permutation of 0..count-1."""
    keys = tf.random.stateless_uniform(
        [count], _purpose(seed, epoch, _ORDER), minval=None, maxval=None, dtype=tf.int32, alg=_ALGORITHM
    )
    return tf.argsort(keys, stable=True)


def _draw_seeds(seed: int, epoch: tf.Tensor, purpose: int, count: int) -> tf.Tensor:
    """int32 [count, 2]: seeds for the epoch's images, batches or records."""
    return tf.random.stateless_uniform(
        [count, 2], _purpose(seed, epoch, purpose), minval=None, maxval=None, dtype=tf.int32, alg=_ALGORITHM
    )


def _purpose(seed: int, epoch: tf.Tensor, purpose: int) -> tf.Tensor:
    return tf.random.fold_in(tf.stack([tf.constant(seed, tf.int32), epoch]), purpose, alg=_ALGORITHM)


def _at_network_size(images: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    target = [preprocessing.height, preprocessing.width, preprocessing.channels]
    # Left in 8 bits where nothing is to resize: a quarter of the memory to move.
    return images if images.shape[1:].as_list() == target else resize_image(images, preprocessing)


def _batch_shape(preprocessing: Preprocessing, batch_size: int | None) -> list[int | None]:
    return [batch_size, preprocessing.height, preprocessing.width, preprocessing.channels]


def _parallel(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _prefetched(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.prefetch(tf.data.AUTOTUNE)


def _check_batch_size(batch_size: int) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise UserError(f"The batch size must be a whole number of at least 1, got {batch_size!r}.")
