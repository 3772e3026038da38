"""Batches made without TensorFlow are those of tf.data, bit for bit."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from keras_resnet.data import array_batches, batches, folder, reading, scanning
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.sources import load_source
from keras_resnet.data.splits import DECODER_PILLOW, FileSplit
from keras_resnet.errors import UserError

AUGMENTATIONS = ["none", "flip", "crop", "crop_flip", "crop,flip"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of files of several sizes and formats; one lies on its side by its EXIF, and one is animated."""
    root = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(1)
    for number in range(36):
        image = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8)).resize((20 + number, 40 - number))
        path = root / "ab"[number % 2] / f"{number:02}.{['jpg', 'png', 'bmp', 'webp'][number % 4]}"
        path.parent.mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif} if number == 4 else {"save_all": True, "append_images": [image]} if number == 7 else {}
        image.save(path, **options)
    return root


@pytest.fixture(scope="module")
def sources(tiny_data, photographs):
    sizes = {"digits": None, tiny_data: 12, f"folder:{photographs}": 16}
    return {name: load_source(name, image_size=size) for name, size in sizes.items()}


def stream(module, data, **options):
    settings = {"batch_size": 5, "seed": 3, "epochs": 2, **options}
    preprocessing = data.preprocessing(resize=settings.pop("resize", "squash"))
    return list(module.training_batches(data.train, preprocessing, **settings).as_numpy_iterator())


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for (images, labels), (expected_images, expected_labels) in zip(ours, theirs, strict=True):
        assert (images.dtype, labels.dtype) == (expected_images.dtype, expected_labels.dtype)
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(images, expected_images)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("kind", ["digits", "npz", "folder"])
def test_training_batches_are_those_of_tf_data(sources, kind, augmentation):
    data = next(data for name, data in sources.items() if name.startswith(kind))
    options = {"augmentation": augmentation, "batch_size": 100 if kind == "digits" else 5}
    assert_same(stream(array_batches, data, **options), stream(batches, data, **options))


@pytest.mark.parametrize("options", [{"balanced": True}, {"repeats": 3}, {"first_epoch": 1}, {"seed": 2**31 - 1}])
def test_so_are_those_of_every_other_order(sources, options, tiny_data):
    options = {"augmentation": "crop_flip", **options}
    assert_same(stream(array_batches, sources[tiny_data], **options), stream(batches, sources[tiny_data], **options))


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_evaluation_batches_are_those_of_tf_data_with_the_last_smaller_one(sources, resize, photographs):
    for data in (sources["digits"], sources[f"folder:{photographs}"]):
        settings = data.preprocessing(resize=resize)
        ours, theirs = (
            list(module.evaluation_batches(data.validation, settings, batch_size=7).as_numpy_iterator())
            for module in (array_batches, batches)
        )
        assert_same(ours, theirs)
        assert sum(len(labels) for _, labels in ours) == len(data.validation)


def test_single_examples_are_those_of_tf_data(sources, photographs):
    for data in (sources["digits"], sources[f"folder:{photographs}"]):
        positions = [3, 0, 2]
        ours, theirs = (
            module.examples_at(data.validation, data.preprocessing(), positions) for module in (array_batches, reading)
        )
        assert_same([ours], [theirs])


def test_a_folder_scanned_by_pillow_alone_is_the_same_data_set(photographs, monkeypatch):
    expected = folder.load_folder(str(photographs), image_size=16, name="f")
    monkeypatch.setattr(scanning, "has_tensorflow", lambda: False)
    found = folder.load_folder(str(photographs), image_size=16, name="f")
    assert found.fingerprint == expected.fingerprint
    assert set(found.train.decoders) == {DECODER_PILLOW}
    for split in ("train", "validation", "test"):
        assert getattr(found, split).paths == getattr(expected, split).paths
        np.testing.assert_array_equal(getattr(found, split).sizes, getattr(expected, split).sizes)


def test_a_stream_can_be_read_from_any_place_again_and_without_end(sources, tiny_data):
    data = sources[tiny_data]
    made = array_batches.training_batches(data.train, data.preprocessing(), batch_size=20, seed=0, epochs=3)
    whole = list(made)
    assert len(whole) == made.num_batches == 3 * (len(data.train) // 20)
    assert_same(list(made.take(2)), whole[:2])
    assert_same([made[3], made[0], made[1]], [whole[3], whole[0], whole[1]])
    endless = made.repeat()
    assert endless.num_batches is None
    assert_same([endless[len(whole) + 1]], [whole[1]])


def test_kept_images_are_decoded_once_and_no_more_are_kept_than_fit(photographs, monkeypatch):
    paths = tuple(sorted(str(path) for path in photographs.rglob("*.png")))
    split = FileSplit(paths, np.zeros(len(paths), np.int32), np.zeros((len(paths), 2), np.int32), np.zeros(len(paths)))
    read = []
    decode = array_batches.read_image
    monkeypatch.setattr(array_batches, "read_image", lambda *given: read.append(given[0]) or decode(*given))
    settings = Preprocessing(8, 8, 3, (0.5,) * 3, (0.5,) * 3)
    for _ in range(2):
        list(array_batches.evaluation_batches(split, settings, batch_size=4))
    assert len(read) == len(paths)
    monkeypatch.setattr(array_batches, "KEPT_BYTES", 0)
    other = dataclasses.replace(split)
    for _ in range(2):
        list(array_batches.evaluation_batches(other, settings, batch_size=4))
    assert len(read) == 3 * len(paths)


def test_what_needs_tensorflow_is_refused(sources, tiny_data):
    data = sources[tiny_data]
    with pytest.raises(UserError, match=r"none, flip, crop, crop_flip, got 'mixup:0\.2'.* install TensorFlow"):
        stream(array_batches, data, augmentation="crop,mixup:0.2")
    for options, message in (
        ({"batch_size": 1000}, "at most"),
        ({"seed": -1}, "seed must lie in"),
        ({"first_epoch": 3}, "first epoch must lie in"),
        ({"repeats": 0}, "at least once"),
    ):
        with pytest.raises(UserError, match=message):
            stream(array_batches, data, **options)


def test_a_file_that_was_damaged_after_the_scan_is_named(photographs, tmp_path):
    torn = tmp_path / "torn.png"
    torn.write_bytes(next(photographs.rglob("*.png")).read_bytes()[:60])
    split = FileSplit((str(torn),), np.zeros(1, np.int32), np.ones((1, 2), np.int32), np.zeros(1))
    settings = Preprocessing(8, 8, 3, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UserError, match=r"torn\.png is not a complete image"):
        list(array_batches.evaluation_batches(split, settings, batch_size=1))
