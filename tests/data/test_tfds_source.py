"""Prepared data sets of TensorFlow Datasets: from memory and from record files, with missing splits made up
for.
"""

from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_resnet.data import tfds_source
from keras_resnet.data.batches import evaluation_batches, training_batches
from keras_resnet.data.dataset import IMAGENET_MEAN
from keras_resnet.data.reading import sample_images
from keras_resnet.data.sources import load_source
from keras_resnet.data.splits import ArraySplit, StreamSplit
from keras_resnet.errors import UserError


class _Blocks(tfds.core.GeneratorBasedBuilder):
    """Flat colours; a pixel's value is the number of the example, so that every image is known again."""

    __module__ = "blocks"  # no package: the builder's own files (checksums, labels) are not looked for
    VERSION = tfds.core.Version("1.0.0")
    SHAPE: ClassVar[tuple] = (8, 8, 3)
    COUNTS: ClassVar[dict] = {}

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=self.SHAPE, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, count) for split, count in self.COUNTS.items()}

    def _generate_examples(self, split, count):
        height, width, channels = self.SHAPE
        for number in range(count):
            image = np.full((height or 9 + number % 3, width or 10, channels), number, np.uint8)
            yield number, {"image": image, "label": -1 if split == "test" and count == 7 else number % 2}


class FixedBlocks(_Blocks):
    __module__ = "blocks"
    COUNTS: ClassVar[dict] = {"train": 60, "test": 20}


class UnevenBlocks(_Blocks):
    """As imagenet2012: images of several sizes, a validation split, and a test without labels."""

    __module__ = "blocks"
    SHAPE: ClassVar[tuple] = (None, None, 3)
    COUNTS: ClassVar[dict] = {"train": 60, "validation": 20, "test": 7}


class LonelyBlocks(_Blocks):
    __module__ = "blocks"
    SHAPE: ClassVar[tuple] = (8, 8, 1)
    COUNTS: ClassVar[dict] = {"train": 60}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tensorflow_datasets"))
    config = tfds.download.DownloadConfig(num_shards=4)
    for builder in (FixedBlocks, UnevenBlocks, LonelyBlocks):
        builder(data_dir=folder).download_and_prepare(download_config=config)
    return folder


def numbers_of(split):
    """The numbers of a split's examples, from their pixels, in the split's order."""
    if isinstance(split, ArraySplit):
        return split.images[:, 0, 0, 0].tolist()
    settings = tfds_settings()
    batches = evaluation_batches(split, settings, batch_size=8)
    return np.concatenate([np.rint(images[:, 0, 0, 0] * 255) for images, _ in batches]).astype(int).tolist()


def tfds_settings(side=8):
    from keras_resnet.data.preprocessing import Preprocessing

    return Preprocessing(side, side, 3, (0.0,) * 3, (1.0,) * 3)


def test_images_of_one_size_become_arrays(data_dir):
    spec = load_source("tfds:fixed_blocks", data_dir=data_dir)
    assert spec.labels == ("even", "odd")
    assert spec.image_shape == (8, 8, 3)
    assert spec.augmentation == "crop_flip"
    assert isinstance(spec.train, ArraySplit)
    assert (len(spec.train), len(spec.validation), len(spec.test)) == (54, 6, 20)
    together = numbers_of(spec.train) + numbers_of(spec.validation)
    assert sorted(together) == list(range(60))
    for split in (spec.train, spec.validation, spec.test):
        np.testing.assert_array_equal(np.array(numbers_of(split)) % 2, split.labels)
    again = load_source("tfds:fixed_blocks", data_dir=data_dir)
    assert again.fingerprint == spec.fingerprint
    assert numbers_of(again.validation) == numbers_of(spec.validation)


def test_without_other_splits_the_training_split_is_cut_in_three(data_dir):
    spec = load_source("tfds:lonely_blocks", data_dir=data_dir, image_size=16)
    assert spec.image_shape == (16, 16, 1)
    assert spec.augmentation == "crop"
    parts = [numbers_of(split) for split in (spec.train, spec.validation, spec.test)]
    assert [len(part) for part in parts] == [42, 6, 12]
    assert sorted(parts[0] + parts[1] + parts[2]) == list(range(60))


def test_images_of_several_sizes_are_streamed(data_dir):
    spec = load_source("tfds:uneven_blocks", data_dir=data_dir)
    assert isinstance(spec.train, StreamSplit)
    assert spec.image_shape == (224, 224, 3)
    assert spec.mean == IMAGENET_MEAN
    # The test split has no labels: validation is the test, and a tenth of the training split the validation.
    assert (len(spec.train), len(spec.validation), len(spec.test)) == (54, 6, 20)
    parts = [numbers_of(split) for split in (spec.train, spec.validation, spec.test)]
    assert sorted(parts[0] + parts[1]) == list(range(60))
    assert sorted(parts[2]) == list(range(20))
    for split, numbers in zip((spec.train, spec.validation, spec.test), parts, strict=True):
        np.testing.assert_array_equal(np.array(numbers) % 2, split.labels)
        assert split.labels.dtype == np.int32


def test_small_images_beyond_the_limit_are_streamed_with_their_own_statistics(data_dir, monkeypatch):
    monkeypatch.setattr(tfds_source, "ARRAY_LIMIT_BYTES", 0)
    spec = load_source("tfds:fixed_blocks", data_dir=data_dir)
    assert isinstance(spec.train, StreamSplit)
    assert spec.image_shape == (8, 8, 3)
    pixels = np.array(numbers_of(spec.train)) / 255
    # Six digits are kept.
    np.testing.assert_allclose(spec.mean, pixels.mean(), atol=1e-6)
    np.testing.assert_allclose(spec.std, pixels.std(), atol=1e-6)


@pytest.mark.parametrize(("augmentation", "repeats"), [("crop_flip", 1), ("inception_crop_flip", 1), ("crop_flip", 3)])
def test_a_resumed_stream_of_records_equals_an_uninterrupted_one(data_dir, augmentation, repeats):
    split = load_source("tfds:uneven_blocks", data_dir=data_dir).train
    options = {"batch_size": 8, "seed": 5, "epochs": 4, "augmentation": augmentation, "repeats": repeats}
    whole = list(training_batches(split, tfds_settings(), **options).as_numpy_iterator())
    rest = list(training_batches(split, tfds_settings(), first_epoch=2, **options).as_numpy_iterator())
    assert len(whole) == 4 * (54 // 8)
    assert len(rest) == 2 * (54 // 8)
    tf.nest.map_structure(np.testing.assert_array_equal, whole[len(rest) :], rest)


def test_every_epoch_of_records_has_its_own_order_and_no_example_twice(data_dir):
    split = load_source("tfds:uneven_blocks", data_dir=data_dir).train
    epochs = training_batches(split, tfds_settings(), batch_size=54, seed=0, epochs=2)
    orders = [np.rint(images[:, 0, 0, 0] * 255).astype(int).tolist() for images, _ in epochs.as_numpy_iterator()]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(numbers_of(split))
    assert orders[0] != orders[1]
    other_seed = training_batches(split, tfds_settings(), batch_size=54, seed=1, epochs=1)
    images, _ = next(other_seed.as_numpy_iterator())
    assert np.rint(images[:, 0, 0, 0] * 255).astype(int).tolist() != orders[0]


def test_repeats_show_fewer_records(data_dir):
    split = load_source("tfds:uneven_blocks", data_dir=data_dir).train
    plain, repeated = (
        np.concatenate([images for images, _ in training_batches(split, tfds_settings(), **options)])
        for options in ({"batch_size": 8, "seed": 5, "epochs": 1, "repeats": repeats} for repeats in (1, 5))
    )
    np.testing.assert_array_equal(repeated, plain[:10].repeat(5, axis=0)[:48])


def test_the_order_of_records_does_not_hang_on_the_processes_seed(data_dir):
    split = load_source("tfds:uneven_blocks", data_dir=data_dir).train
    streams = []
    for process_seed in (0, 7):
        tf.random.set_seed(process_seed)
        batches = training_batches(split, tfds_settings(), batch_size=8, seed=5, epochs=1)
        streams.append(list(batches.as_numpy_iterator()))
    tf.nest.map_structure(np.testing.assert_array_equal, *streams)


def test_a_sample_of_records_is_even_and_holds_the_images_of_its_labels(data_dir):
    split = load_source("tfds:uneven_blocks", data_dir=data_dir).train
    images, labels = sample_images(split, tfds_settings(), 10)
    numbers = np.rint(images[:, 0, 0, 0]).astype(int)
    assert len(set(numbers.tolist())) == 10
    np.testing.assert_array_equal(numbers % 2, labels)
    assert np.bincount(labels).tolist() == [5, 5]


def test_a_mocked_public_data_set_loads(tmp_path):
    info_dir = tmp_path / "cifar10" / "3.0.2"
    info_dir.mkdir(parents=True)
    builder = tfds.builder("cifar10", data_dir=str(tmp_path / "elsewhere"))
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    splits = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[30],
            num_bytes=1,
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=str(info_dir), dataset_name="cifar10", filetype_suffix="tfrecord", template=template
            ),
        )
        for name in ("train", "test")
    ]
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.info.write_to_directory(info_dir)
    with tfds.testing.mock_data(num_examples=30, data_dir=str(tmp_path)):
        spec = load_source("tfds:cifar10", data_dir=str(tmp_path))
    assert len(spec.labels) == 10
    assert spec.image_shape == (32, 32, 3)
    assert len(spec.train) + len(spec.validation) == 30
    assert len(spec.test) == 30
    assert spec.train.images.shape[1:] == (32, 32, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tfds:cifar10", r"must be prepared.*'cifar10'.*download_and_prepare"),
        ("tfds:cifar11", "Unknown data set.*'cifar10'"),
        ("tfds:cifar10_corrupted/nonsense", "cannot open"),
        ("tfds:", "written tfds:NAME"),
    ],
)
def test_what_is_not_there_is_said(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        load_source(name, data_dir=str(tmp_path))
