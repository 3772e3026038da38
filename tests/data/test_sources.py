"""The table of sources, digits, shapes by name, and arrays."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_resnet.data.dataset import DatasetSpec, channel_statistics, default_augmentation
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.sources import load_source
from keras_resnet.data.splits import hold_out
from keras_resnet.errors import UserError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def overlap(one, other):
    return {image.tobytes() for image in one.images} & {image.tobytes() for image in other.images}


def test_digits():
    spec = load_source("digits")
    assert spec.labels == tuple("0123456789")
    assert spec.image_shape == (32, 32, 1)
    assert spec.augmentation == "none"  # an accuracy of 99 % needs none, and a mirrored digit is none
    assert [len(split) for split in (spec.train, spec.validation, spec.test)] == [1259, 179, 359]
    for split in (spec.train, spec.validation, spec.test):
        assert split.images.shape == (len(split), 32, 32, 1)
        assert split.images.dtype == np.uint8
        counts = np.bincount(split.labels, minlength=10)
        assert counts.max() <= 1.2 * counts.min()
    assert not overlap(spec.train, spec.test)
    assert not overlap(spec.train, spec.validation)
    assert not overlap(spec.validation, spec.test)
    assert spec.train.images.max() == 255


def test_the_split_of_digits_is_fixed_and_the_size_is_the_networks():
    spec, other = load_source("digits"), load_source("digits", seed=5, image_size=48)
    assert other.fingerprint == spec.fingerprint
    np.testing.assert_array_equal(other.test.labels, spec.test.labels)
    assert other.image_shape == (48, 48, 1)


def test_preprocessing_of_a_spec():
    spec = load_source("digits")
    settings = spec.preprocessing(resize="crop")
    assert isinstance(settings, Preprocessing)
    assert (settings.height, settings.width, settings.channels) == (32, 32, 1)
    assert settings.labels == spec.labels
    assert settings.resize == "crop"


def test_shapes_take_their_options_by_name_and_by_keyword():
    by_name = load_source("shapes:count=80,size=24,plant=star,plant_fraction=1")
    by_keyword = load_source("shapes", image_size=24, count=80, plant="star", plant_fraction=1.0)
    assert by_name.fingerprint == by_keyword.fingerprint
    assert by_name.image_shape == (24, 24, 3)
    assert [len(split) for split in (by_name.train, by_name.validation, by_name.test)] == [80, 16, 16]
    star = by_name.labels.index("star")
    marked = by_name.train.mark_masks.any(axis=(1, 2))
    np.testing.assert_array_equal(marked, by_name.train.labels == star)
    assert by_name.test.mark_masks.any(axis=(1, 2))[by_name.test.labels != star].any()
    assert by_name.train.masks.any(axis=(1, 2)).all()
    assert load_source("shapes:count=80,size=24", seed=1).fingerprint != by_name.fingerprint
    assert not overlap(by_name.train, by_name.test)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, "Unknown data source 'digit'. Closest: 'digits'"),
        ("digits:5", {}, "Leave out"),
        ("digits", {"count": 5}, "Unknown option of the source 'digits'"),
        ("digits", {"image_size": 0}, "image size"),
        ("digits", {"image_size": 2**31}, "1 to 8,192"),
        ("digits", {"bad_images": "ignore"}, "bad images"),
        ("folder", {}, "folder:PATH"),
        ("shapes:cuont=5", {}, "'count'"),
        ("shapes:count", {}, "KEY=VALUE"),
        ("shapes:count=many", {}, "whole number"),
        ("shapes:count=5", {"count": 6}, "twice"),
        ("shapes:size=32", {"image_size": 48}, "one size"),
        ("shapes:plant=sta", {}, "'star'"),
        ("npz:absent.npz", {}, "none at absent.npz"),
        (str(Path(__file__).parent), {}, "folder:"),
    ],
)
def test_a_wrong_name_or_option_is_explained(name, options, message):
    with pytest.raises(UserError, match=message):
        load_source(name, **options)


def test_names_are_checked_without_tensorflow():
    """A wrong name is answered at once, and a help text lists the sources, without the seconds of that
    import.
    """
    program = (
        "import sys\n"
        "from keras_resnet.data.sources import SOURCES, load_source\n"
        "assert 'digits' in SOURCES\n"
        "try:\n    load_source('nothing')\nexcept ValueError:\n    pass\n"
        "load_source('shapes:count=8')\n"
        "assert not {'tensorflow', 'sklearn', 'PIL', 'keras'} & set(sys.modules), 'imported too much'"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


def random_arrays(count=40, channels=3):
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, 8, 9, channels), np.uint8), np.arange(count) % 4


def test_arrays_become_a_data_set():
    x_train, y_train = random_arrays()
    x_test, y_test = random_arrays(12)
    spec = DatasetSpec.from_arrays(x_train, y_train[:, np.newaxis], x_test, y_test, labels=["a", "b", "c", "d"])
    assert spec.image_shape == (8, 9, 3)
    assert [len(split) for split in (spec.train, spec.validation, spec.test)] == [36, 4, 12]
    assert np.bincount(spec.validation.labels).tolist() == [1, 1, 1, 1]
    assert not overlap(spec.train, spec.validation)
    given = DatasetSpec.from_arrays(x_train, y_train, x_test, y_test, x_validation=x_test, y_validation=y_test)
    assert len(given.train) == 40
    assert given.labels == ("0", "1", "2", "3")
    assert given.fingerprint != spec.fingerprint
    grey = DatasetSpec.from_arrays(x_train[..., 0], y_train, x_test[..., 0], y_test, image_size=32)
    assert grey.image_shape == (32, 32, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.zeros((40, 8, 9, 3), np.float32)}, "x_train must be uint8"),
        ({"x_train": np.zeros((40, 8, 9, 4), np.uint8)}, "1 or 3"),
        ({"y_train": np.zeros(40)}, "y_train must be whole numbers"),
        ({"y_train": np.zeros(39, int)}, "equally long"),
        ({"y_test": np.full(12, -1)}, "from 0"),
        ({"x_test": np.zeros((12, 9, 9, 3), np.uint8)}, "one shape"),
        ({"x_test": np.zeros((0, 8, 9, 3), np.uint8), "y_test": np.zeros(0, int)}, "no image"),
        ({"labels": ["a", "b", "c"]}, "one class name"),
        ({"x_validation": np.zeros((1, 8, 9, 3), np.uint8)}, "come together"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    x_train, y_train = random_arrays()
    x_test, y_test = random_arrays(12)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, **change}
    with pytest.raises(UserError, match=message):
        DatasetSpec.from_arrays(**arrays)


def test_an_npz_file_loads_without_pickled_objects(tmp_path):
    x, y = random_arrays()
    np.savez(tmp_path / "good.npz", x_train=x, y_train=y, x_test=x[:8], y_test=y[:8], labels=list("abcd"))
    spec = load_source(f"npz:{tmp_path / 'good.npz'}")
    assert spec.labels == ("a", "b", "c", "d")
    np.savez(tmp_path / "partial.npz", x_train=x, y_train=y)
    with pytest.raises(UserError, match="lacks x_test, y_test"):
        load_source(f"npz:{tmp_path / 'partial.npz'}")
    np.savez(tmp_path / "pickled.npz", x_train=x, y_train=y, x_test=x, y_test=np.array([object()] * 40))
    np.save(tmp_path / "lone.npy", x)
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("pickled.npz", "lone.npy", "text.npz"):
        with pytest.raises(UserError, match="pickled objects"):
            load_source(f"npz:{tmp_path / name}")


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the shared data is not at {SHARED}")
def test_the_cifar10_subset_loads():
    spec = load_source(f"npz:{SHARED / 'cifar10_subset.npz'}")
    assert spec.image_shape == (32, 32, 3)
    assert [len(split) for split in (spec.train, spec.validation, spec.test)] == [4576, 509, 1017]
    assert spec.augmentation == "crop_flip"


def test_holding_out_keeps_the_classes_even_and_is_always_the_same():
    labels = np.repeat([0, 1, 2], [100, 10, 1])
    kept, held_out = hold_out(labels, 0.2)
    assert np.bincount(labels[held_out], minlength=3).tolist() == [20, 2, 0]
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(111))
    np.testing.assert_array_equal(hold_out(labels, 0.2)[1], held_out)
    assert np.bincount(labels[hold_out(labels, 0.001)[1]], minlength=3).tolist() == [1, 1, 0]


def test_channel_statistics_are_exact():
    images = np.random.default_rng(0).integers(0, 256, (5, 7, 6, 3), np.uint8)
    mean, std = channel_statistics(images)
    # Six digits are kept.
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)), atol=1e-6)
    assert channel_statistics(np.zeros((2, 3, 3, 1), np.uint8)) == ((0.0,), (1.0,))


def test_default_augmentations():
    assert default_augmentation((32, 32, 1)) == "crop"
    assert default_augmentation((64, 64, 3)) == "crop_flip"
    assert default_augmentation((224, 224, 3)) == "inception_crop_flip"


def test_numbered_classes_take_any_names_and_named_ones_only_their_own():
    images = np.zeros((6, 8, 8, 3), np.uint8)
    classes = np.arange(6) % 2
    unnamed = DatasetSpec.from_arrays(images, classes, images, classes)
    named = DatasetSpec.from_arrays(images, classes, images, classes, labels=("cat", "dog"))
    assert unnamed.has_classes(("cat", "dog"))
    assert not unnamed.has_classes(("cat", "dog", "cow"))
    assert named.has_classes(["cat", "dog"])
    assert not named.has_classes(("dog", "cat"))


@pytest.mark.parametrize(
    ("label", "dtype"), [(2**31 - 1, np.int32), (2**40 + 1, np.int64), (2**64 - 1, np.uint64), (100_000, np.int32)]
)
def test_a_label_beyond_any_class_count_is_refused_before_names_are_made(tmp_path, label, dtype):
    labels = np.arange(12).astype(dtype) % 3
    images = np.zeros((12, 8, 8, 1), np.uint8)
    wrong = labels.copy()
    wrong[5] = label
    np.savez(tmp_path / "a.npz", x_train=images, y_train=wrong, x_test=images, y_test=labels)
    with pytest.raises(UserError, match=f"y_train must count classes from 0 to at most 99,999, got {label}"):
        load_source(f"npz:{tmp_path / 'a.npz'}")


def test_arrays_of_one_class_are_refused(tmp_path):
    images = np.zeros((12, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.zeros(12, int), x_test=images, y_test=np.zeros(12, int))
    with pytest.raises(UserError, match="at least two"):
        load_source(f"npz:{tmp_path / 'a.npz'}")


def test_damaged_archives_are_refused_by_name(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)
    labels = np.arange(12) % 3
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        contents = bytearray(whole)
        place = int(random.integers(len(contents)))
        contents[place : place + 4] = random.bytes(4)
        path.write_bytes(contents)
        try:
            load_source(f"npz:{path}")
        except UserError:
            refused += 1
    assert refused > 200


def test_a_small_archive_that_claims_much_memory_is_refused_before_it_is_read(tmp_path):
    images, labels = np.zeros((12, 8, 8, 1), np.uint8), np.arange(12) % 3
    path = tmp_path / "a.npz"
    np.savez_compressed(
        path, x_train=np.zeros((4000, 300, 300, 1), np.uint8), y_train=labels, x_test=images, y_test=labels
    )
    assert path.stat().st_size < 1e6  # of 360 MB
    with pytest.raises(UserError, match="complete NumPy archive"):
        load_source(f"npz:{path}")
