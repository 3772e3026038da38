"""From the order of an epoch to batches for the network (tf.data).

    order of the epoch → read and decode → augment → batch → normalize → prefetch

The batches of epoch e depend on (seed, e), the split, the batch size, the preprocessing and the augmentation alone, not
on the epochs before, the number of threads or where a run was interrupted. A run that starts at first_epoch=k sees bit
for bit what an uninterrupted run sees from epoch k on. Every epoch shows every example once, but for the last ones of
its order, which do not fill a batch. With repeated augmentation it has as many steps, but fewer examples, each several
times in a row and changed anew each time.

For arrays and files the order is a permutation of all examples. The records of a `StreamSplit` lie in files one behind
the other; there the files are permuted, sixteen of them read in turn, and the records shuffled in a buffer of 10,000:
equally a function of (seed, e), but not an even choice among all permutations.

Reference: E. Hoffer et al., "Augment your batch: better training with larger batches", arXiv:1901.09335 (repeats).

Training drops the last, ragged batch: TensorFlow's oneDNN kernels on the processor corrupted memory when a training
step came in a second batch size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_resnet.data.augmentation import Augmentation, parse_augmentation
from keras_resnet.data.order import BATCHES, IMAGES, balanced_positions, draw_seeds, permutation
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.reading import Reader, open_split, parallel_map
from keras_resnet.data.splits import Split, StreamSplit, check_batch_size, check_epochs, steps_per_epoch
from keras_resnet.data.transforms import normalize, preprocess, resize_image
from keras_resnet.errors import UserError


# No Python branch or loop here depends on a tensor, and AutoGraph would delay the start by a second or two.
@tf.autograph.experimental.do_not_convert
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
) -> tf.data.Dataset:
    """Builds the stream of training batches.

    Args:
        split: The training examples.
        preprocessing: The network's input. An augmentation that mixes labels needs its class names.
        batch_size: Examples per batch.
        seed: What order and augmentation depend on, 0..2³¹-1.
        epochs: The epoch to stop before, counted from the run's beginning, as in `keras.Model.fit`: the stream holds
            epochs first_epoch … epochs - 1.
        first_epoch: The epoch to begin with: 0, or where an interrupted run resumes.
        augmentation: What `parse_augmentation` reads.
        balanced: Whether every class comes equally often: examples of small classes come more than once an epoch,
            and not all of large ones.
        repeats: How many times in a row an example comes. An epoch of n examples holds the first ⌈n / repeats⌉ of its
            order.
        keep: Whether decoded files may stay in memory.
        rows: Which rows of every batch come, from `splits.worker_rows`; the others are not even read, unless the
            augmentation changes a batch as a whole. None: all.

    Returns:
        A dataset of (images, targets): float32 [batch_size, height, width, channels], normalized, and labels, int32
        [batch_size], or, where the augmentation mixes labels, probabilities, float32 [batch_size, classes];
        steps_per_epoch(split, batch_size) batches an epoch, one epoch behind the other.

    Raises:
        UserError: The batch is larger than the split, a number is out of range, or the augmentation is unknown.
    """
    steps = steps_per_epoch(split, batch_size)
    check_epochs(seed=seed, first_epoch=first_epoch, epochs=epochs, repeats=repeats)
    augment = parse_augmentation(augmentation)
    num_classes = len(preprocessing.labels)
    if augment.mixes_targets and not num_classes:
        raise UserError(
            f"The augmentation {augmentation!r} mixes labels, so it needs the names of all classes, and the "
            "preprocessing has none. Give it labels."
        )
    reader = open_split(split, preprocessing.channels, keep=keep)
    if balanced and isinstance(split, StreamSplit):
        raise UserError("Record files are read in a stream, which cannot be balanced. Weight the classes instead.")

    def positions(epoch: tf.Tensor) -> tf.Tensor:
        if balanced:
            return balanced_positions(seed, epoch, split.labels)
        return permutation(seed, epoch, len(split))

    numbers = tf.data.Dataset.range(first_epoch, epochs, output_type=tf.int32)
    rows = slice(0, batch_size) if rows is None else rows
    # What a step draws for an image depends on the whole batch; it is cut behind such steps, else before reading.
    read_rows, kept_rows = (slice(0, batch_size), rows) if augment.batch else (rows, slice(None))
    plan = _Plan(numbers, seed, steps, batch_size, repeats, positions, read_rows)
    is_normalized = False
    if reader.batch is not None and augment.image is None:
        batches = _gathered_batches(reader, preprocessing, plan)
    else:
        # One by one while they are in the processor's cache, where no step needs the pixels of the batch.
        is_normalized = not augment.batch
        batches = _batches_of_images(reader, augment, preprocessing, plan, is_normalized=is_normalized)
    share = rows.stop - rows.start
    seeds = plan.epochs.flat_map(
        lambda epoch: tf.data.Dataset.from_tensor_slices(draw_seeds(seed, epoch, BATCHES, steps))
    )

    def finish(batch: tuple[tf.Tensor, tf.Tensor], batch_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, targets = (part[kept_rows] for part in augment.change_batch(*batch, batch_seed, num_classes))
        shape = [share, preprocessing.height, preprocessing.width, preprocessing.channels]
        if not is_normalized:
            images = normalize(images, preprocessing)
        images = tf.ensure_shape(images, shape)
        return images, tf.ensure_shape(targets, [share, *targets.shape[1:]])

    return _prefetched(parallel_map(tf.data.Dataset.zip(batches, seeds), finish))


class _Plan(NamedTuple):
    """What the order of a training depends on: its epochs (a dataset of numbers), and the steps and batches of each.

    `positions` is epoch → int32 [count], for splits whose examples have positions; `rows` are those of every batch that
    are read.
    """

    epochs: tf.data.Dataset
    seed: int
    steps: int
    batch_size: int
    repeats: int
    positions: Callable[[tf.Tensor], tf.Tensor]
    rows: slice

    @property
    def count(self) -> int:
        """How many examples an epoch has, repeated ones counted each time."""
        return self.steps * self.batch_size

    @property
    def share(self) -> int:
        """How many rows of a batch are read."""
        return self.rows.stop - self.rows.start

    @property
    def distinct(self) -> int:
        """How many different examples those are."""
        return -(-self.count // self.repeats)


def _gathered_batches(reader: Reader, preprocessing: Preprocessing, plan: _Plan) -> tf.data.Dataset:
    """Batches of images that are in memory at one size: each is gathered as a whole."""
    size = [preprocessing.height, preprocessing.width, preprocessing.channels]

    def positions(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.repeat(plan.positions(epoch)[: plan.distinct], plan.repeats)[: plan.count]
        return tf.data.Dataset.from_tensor_slices(tf.reshape(order, [plan.steps, plan.batch_size])[:, plan.rows])

    def gather(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = reader.batch(positions)
        # Left in 8 bits where nothing is to resize: a quarter of the memory to move.
        return images if images.shape[1:].as_list() == size else resize_image(images, preprocessing), labels

    return parallel_map(plan.epochs.flat_map(positions), gather)


def _batches_of_images(
    reader: Reader, augment: Augmentation, preprocessing: Preprocessing, plan: _Plan, *, is_normalized: bool
) -> tf.data.Dataset:
    """Batches of images that are read, resized, and perhaps augmented and normalized one by one."""

    def examples(epoch: tf.Tensor) -> tf.data.Dataset:
        seeds = tf.data.Dataset.from_tensor_slices(draw_seeds(plan.seed, epoch, IMAGES, plan.count))
        if reader.takes_positions:
            order = tf.data.Dataset.from_tensor_slices(plan.positions(epoch))
        else:
            order = reader.ordered(plan.seed, epoch)
        order = order.take(plan.distinct)
        if plan.repeats > 1:
            order = order.flat_map(lambda example: tf.data.Dataset.from_tensors(example).repeat(plan.repeats))
        numbered = tf.data.Dataset.zip(order, seeds)
        if plan.share == plan.batch_size:
            return numbered

        def is_own(number: tf.Tensor, _: Any) -> tf.Tensor:
            row = number % plan.batch_size
            return tf.logical_and(row >= plan.rows.start, row < plan.rows.stop)

        return numbered.enumerate().filter(is_own).map(lambda _, example: example)

    def one_image(example: Any, image_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if augment.rectangle is None or reader.part is None:
            image, label = reader.example(example)
            image = augment.change_image(image, image_seed, preprocessing)
        else:
            part, label = reader.part(example, lambda height, width: augment.rectangle(height, width, image_seed))
            image = augment.change_part(part, image_seed, preprocessing)
        return normalize(image, preprocessing) if is_normalized else image, label

    return parallel_map(plan.epochs.flat_map(examples), one_image).batch(plan.share, drop_remainder=True)


@tf.autograph.experimental.do_not_convert
def evaluation_batches(split: Split, preprocessing: Preprocessing, *, batch_size: int) -> tf.data.Dataset:
    """Builds the stream of every example of a split, in the split's order, without augmentation.

    Args:
        split: The examples.
        preprocessing: The network's input.
        batch_size: Examples per batch; the last batch has fewer where the split does not divide evenly.

    Returns:
        A dataset of (images, labels): float32 [n, height, width, channels], normalized, and int32 [n].
    """
    check_batch_size(batch_size)
    reader = open_split(split, preprocessing.channels)
    if reader.batch is not None:

        def from_positions(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            images, labels = reader.batch(positions)
            return preprocess(images, preprocessing), labels

        positions = tf.data.Dataset.range(len(split)).batch(batch_size)
        batches = parallel_map(positions, from_positions)
    else:

        def one_image(example: Any) -> tuple[tf.Tensor, tf.Tensor]:
            image, label = reader.example(example)
            return preprocess(image, preprocessing), label

        batches = parallel_map(reader.in_sequence(), one_image).batch(batch_size)
    return _prefetched(batches.apply(tf.data.experimental.assert_cardinality(-(-len(split) // batch_size))))


def _prefetched(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.prefetch(tf.data.AUTOTUNE)
