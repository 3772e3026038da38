"""Data sets of TensorFlow Datasets that were prepared beforehand; nothing is downloaded here.

Which split is what:

- `train` is for training, `test` for testing, `validation` for choosing, where they exist.
- A `test` without labels (all -1, as in imagenet2012) counts as absent. Without a test, `validation` takes
  its place.
- Without a validation split a tenth of `train` is set aside; without any other split `train` is cut into 70,
  10 and 20 %. The cut is always the same: even over the classes where the images fit into memory, otherwise by
  TensorFlow Datasets' slices of the records (`train[90%:]`), whose order was shuffled when they were written.

Images of one known size that take at most 1 GiB become arrays in memory. Everything else is read from its record files
in every epoch, as a `StreamSplit`. As in TensorFlow Datasets itself, opacity and EXIF orientation are not looked at.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from keras_resnet.data.dataset import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PHOTOGRAPH_SIDE,
    SMALL_SIDE,
    DatasetSpec,
    arrays_fingerprint,
    channel_statistics,
    default_augmentation,
)
from keras_resnet.data.splits import ArraySplit, StreamSplit, hold_out
from keras_resnet.errors import UserError, unknown_name

ARRAY_LIMIT_BYTES = 1 << 30

_STATISTICS_RECORDS = 1000


def load_tfds(
    dataset: str, *, data_dir: str | None = None, image_size: int | None = None, name: str | None = None
) -> DatasetSpec:
    """Opens a prepared data set of TensorFlow Datasets.

    Args:
        dataset: Its name there: "cifar10", "imagenet2012:5.1.0", "cifar10_corrupted/brightness_1".
        data_dir: The folder of prepared data sets; TensorFlow Datasets' own default without it.
        image_size: Side of the network input. Without it: the images' own size where that is one of at most 64 × 64,
            else 224.
        name: The data set's name here.

    Returns:
        The data set. Mean and standard deviation come from the training images where these are small or grey, and are
        ImageNet's for photographs.

    Raises:
        UserError: There is no such data set, it is not prepared, or it is not one of labelled images.
    """
    builder = _prepared_builder(dataset, data_dir)
    image_key, label_key = _image_and_label(builder, dataset)
    height, width, channels = builder.info.features[image_key].shape
    labels = tuple(builder.info.features[label_key].names)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    if "train" not in sizes:
        raise UserError(f"A data set needs the split 'train', tfds:{dataset} has {', '.join(sizes) or 'none'}.")
    is_one_size = None not in (height, width)
    is_small = is_one_size and max(height, width) <= SMALL_SIDE
    fits = is_one_size and channels in (1, 3) and builder.info.features[image_key].np_dtype == np.uint8
    fits = fits and sum(sizes.values()) * height * width * channels <= ARRAY_LIMIT_BYTES
    channels = 1 if channels == 1 else 3
    if fits:
        splits = _array_splits(builder, sizes, image_key, label_key)
        mean, std = channel_statistics(splits[0].images)
        fingerprint = arrays_fingerprint(labels, *splits)
    else:
        splits = _stream_splits(builder, sizes, image_key, label_key)
        is_photograph = not is_small and channels == 3
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if is_photograph else _sampled_statistics(splits[0], channels)
        fingerprint = _stream_fingerprint(builder, splits)
    shape = (height, width, channels) if is_small else (PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE, channels)
    augmentation = default_augmentation(shape)
    if image_size is not None:
        shape = (image_size, image_size, channels)
    return DatasetSpec(name or f"tfds:{dataset}", labels, shape, *splits, augmentation, mean, std, fingerprint)


def _prepared_builder(dataset: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        raise unknown_name("data set of TensorFlow Datasets", dataset, tfds.list_builders()) from None
    except (ValueError, AssertionError) as error:  # an unknown config or version, or a name it cannot parse
        raise UserError(f"TensorFlow Datasets cannot open {dataset!r}: {str(error).splitlines()[0]}") from None
    if not builder.is_prepared():
        where = builder.data_dir
        root = data_dir or "its default folder"
        argument = f", data_dir={data_dir!r}" if data_dir else ""
        raise UserError(
            "A data set of TensorFlow Datasets must be prepared before it is used; "
            f"{dataset!r} is not in {root} ({where}). Where there is a network, run: "
            'python -c "import tensorflow_datasets as tfds; '
            f'tfds.builder({dataset!r}{argument}).download_and_prepare()"'
        )
    return builder


def _image_and_label(builder: Any, dataset: str) -> tuple[str, str]:
    import tensorflow_datasets as tfds

    features = builder.info.features
    keys = list(features) if isinstance(features, tfds.features.FeaturesDict) else []
    images = [key for key in keys if isinstance(features[key], tfds.features.Image)]
    labels = [key for key in keys if isinstance(features[key], tfds.features.ClassLabel)]
    supervised = builder.info.supervised_keys
    if supervised and len(supervised) == 2 and supervised[0] in images and supervised[1] in labels:
        return supervised[0], supervised[1]
    if len(images) == 1 and len(labels) == 1:
        return images[0], labels[0]
    raise UserError(
        f"Training needs a data set with one image and one class label an example; tfds:{dataset} has "
        f"{len(images)} and {len(labels)} of them among its features ({', '.join(keys)}). Choose another one."
    )


def _array_splits(builder: Any, sizes: dict[str, int], image_key: str, label_key: str) -> tuple[ArraySplit, ...]:
    found = {split: _read_arrays(builder, split, image_key, label_key) for split in _known(sizes)}
    roles = _roles({split: len(part) > 0 and part.labels.min() >= 0 for split, part in found.items()})
    train = found["train"]

    def part_of(split: ArraySplit, chosen: np.ndarray) -> ArraySplit:
        return ArraySplit(split.images[chosen], split.labels[chosen])

    if roles["test"] is None:
        rest, held_out = hold_out(train.labels, 0.2)
        train, test = part_of(train, rest), part_of(train, held_out)
    else:
        test = found[roles["test"]]
    if roles["validation"] is None:
        rest, held_out = hold_out(train.labels, 0.1 if roles["test"] else 0.125)
        train, validation = part_of(train, rest), part_of(train, held_out)
    else:
        validation = found[roles["validation"]]
    return train, validation, test


def _stream_splits(builder: Any, sizes: dict[str, int], image_key: str, label_key: str) -> tuple[StreamSplit, ...]:
    file_format = builder.info.file_format.value
    if file_format != "tfrecord":
        raise UserError(
            "Data sets that do not fit into memory are read from TFRecord files, "
            f"{builder.info.full_name} was prepared as {file_format}. Prepare it with file_format='tfrecord'."
        )

    def stream(expression: str) -> StreamSplit:
        instructions = tuple(
            (
                str(file.filename),
                int(file.skip),
                int(file.take if file.take >= 0 else file.examples_in_shard - file.skip),
            )
            for file in builder.info.splits[expression].file_instructions
        )
        return StreamSplit(instructions, image_key, label_key, _read_labels)

    roles = _roles({split: _first_label(stream(split)) >= 0 for split in _known(sizes)})
    if roles["test"] is None:
        return stream("train[:70%]"), stream("train[70%:80%]"), stream("train[80%:]")
    if roles["validation"] is None:
        return stream("train[:90%]"), stream("train[90%:]"), stream(roles["test"])
    return stream("train"), stream(roles["validation"]), stream(roles["test"])


def _known(sizes: dict[str, int]) -> list[str]:
    return [split for split in ("train", "validation", "test") if sizes.get(split)]


def _roles(has_labels: dict[str, bool]) -> dict[str, str | None]:
    """Which split is for validation and which for the test; None where one must be cut off the training
    split.
    """
    validation = "validation" if has_labels.get("validation") else None
    if has_labels.get("test"):
        return {"validation": validation, "test": "test"}
    return {"validation": None, "test": validation}


def _read_arrays(builder: Any, split: str, image_key: str, label_key: str) -> ArraySplit:
    import tensorflow_datasets as tfds

    # One file after the other: by default several are read in turn, and the order depends on their number.
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    examples = builder.as_dataset(split=split, shuffle_files=False, read_config=config)
    examples = examples.map(lambda example: (example[image_key], example[label_key])).batch(1024).prefetch(1)
    images, labels = zip(*examples.as_numpy_iterator(), strict=True)
    return ArraySplit(np.concatenate(images), np.concatenate(labels).astype(np.int32))


def _read_labels(split: StreamSplit) -> np.ndarray:
    import tensorflow as tf

    features = {split.label_key: tf.io.FixedLenFeature([], tf.int64)}
    labels = [np.zeros(0, np.int64)]
    for path, skip, take in split.instructions:
        records = tf.data.TFRecordDataset(path, buffer_size=1 << 20).skip(skip).take(take).batch(1024)
        parsed = records.map(lambda batch: tf.io.parse_example(batch, features)[split.label_key])
        labels += list(parsed.as_numpy_iterator())
    return np.concatenate(labels).astype(np.int32)


def _first_label(split: StreamSplit) -> int:
    path, skip, take = split.instructions[0]
    first = dataclasses.replace(split, instructions=((path, skip, min(take, 1)),))
    return int(first.labels[0])


def _sampled_statistics(split: StreamSplit, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    import tensorflow as tf

    from keras_resnet.data.decoding import decode_jpeg

    pixels, wanted = [], _STATISTICS_RECORDS
    for path, skip, take in split.instructions:
        records = tf.data.TFRecordDataset(path).skip(skip).take(min(take, wanted))
        features = {split.image_key: tf.io.FixedLenFeature([], tf.string)}
        images = records.map(
            lambda record, features=features: decode_jpeg(
                tf.io.parse_single_example(record, features)[split.image_key], channels
            )
        )
        pixels += [image.reshape(-1, channels) for image in images.as_numpy_iterator()]
        wanted -= take
        if wanted <= 0:
            break
    return channel_statistics(np.concatenate(pixels))


def _stream_fingerprint(builder: Any, splits: tuple[StreamSplit, ...]) -> str:
    """Of the data set's name and version and each split's shards: reading every record would take hours."""
    parts = [builder.info.full_name]
    for info in builder.info.splits.values():
        parts.append(f"{info.name} {info.num_bytes} {list(info.shard_lengths)}")
    for split in splits:
        parts.append(repr([(skip, take) for _, skip, take in split.instructions]))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
