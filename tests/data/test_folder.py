"""Image folders: the layouts, the splits, and every way in which they can be wrong."""

import shutil

import numpy as np
import pytest
from PIL import Image

from keras_resnet.data.dataset import (
    DECODER_JPEG,
    DECODER_PILLOW,
    DECODER_TENSORFLOW,
    IMAGENET_MEAN,
    channel_statistics,
)
from keras_resnet.data.folder import scan_files
from keras_resnet.data.images import read_image
from keras_resnet.data.sources import load_source
from keras_resnet.errors import UserError


def write_images(folder, count, *, first=0, size=(12, 10), suffix=".jpg"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}{suffix}")


@pytest.fixture
def plain(tmp_path):
    """Two classes of 20 images, not split."""
    root = tmp_path / "animals"
    write_images(root / "cat", 20)
    write_images(root / "dog", 20, first=20)
    return root


@pytest.fixture
def divided(tmp_path):
    root = tmp_path / "divided"
    for number, (split, count) in enumerate((("train", 20), ("test", 5))):
        for place, label in enumerate(("cat", "dog")):
            write_images(root / split / label, count, first=100 * number + 40 * place)
    return root


def names(split):
    return {path.rsplit("/", 2)[-2] + "/" + path.rsplit("/", 1)[-1] for path in split.paths}


def sizes(spec):
    return [len(split) for split in (spec.train, spec.validation, spec.test)]


def test_a_plain_folder_is_cut_in_three(plain):
    spec = load_source(f"folder:{plain}")
    assert spec.labels == ("cat", "dog")
    assert sizes(spec) == [28, 4, 8]
    parts = [names(split) for split in (spec.train, spec.validation, spec.test)]
    assert len(parts[0] | parts[1] | parts[2]) == 40
    for split in (spec.train, spec.validation, spec.test):
        counts = np.bincount(split.labels)
        assert counts[0] == counts[1]
        assert [spec.labels[label] for label in split.labels] == [path.split("/")[-2] for path in split.paths]
    assert names(load_source(f"folder:{plain}", seed=3).test) == parts[2]


def test_a_divided_folder_gives_a_tenth_of_training_to_validation(divided):
    spec = load_source(f"folder:{divided}")
    assert sizes(spec) == [36, 4, 10]
    assert all("/test/" in path for path in spec.test.paths)
    assert all("/train/" in path for path in spec.train.paths + spec.validation.paths)


@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_validation_folder_is_used(divided, name):
    shutil.copytree(divided / "test", divided / name)
    assert sizes(load_source(f"folder:{divided}")) == [40, 10, 10]


def test_with_validation_alone_it_is_the_test(divided):
    (divided / "test").rename(divided / "val")
    spec = load_source(f"folder:{divided}")
    assert sizes(spec) == [36, 4, 10]
    assert all("/val/" in path for path in spec.test.paths)


def test_small_images_keep_their_size_and_photographs_go_to_224(plain):
    spec = load_source(f"folder:{plain}")
    assert spec.image_shape == (10, 12, 3)
    assert spec.augmentation == "crop_flip"
    pixels = np.stack([read_image(path, 3) for path in spec.train.paths])
    assert (spec.mean, spec.std) == channel_statistics(pixels)
    assert load_source(f"folder:{plain}", image_size=48).image_shape == (48, 48, 3)
    write_images(plain / "dog", 1, first=77, size=(13, 10))
    spec = load_source(f"folder:{plain}")
    assert spec.image_shape == (224, 224, 3)
    assert spec.mean == IMAGENET_MEAN
    assert spec.augmentation == "inception_crop_flip"


def test_other_files_hidden_folders_and_the_case_of_suffixes(plain):
    write_images(plain / ".cache", 2)
    write_images(plain / "__MACOSX", 2)
    (plain / "cat" / "notes.txt").write_text("no image, and does not claim to be")
    (plain / "cat" / "._000.jpg").write_bytes(b"resource fork")
    write_images(plain / "cat", 2, first=60, suffix=".PNG")
    write_images(plain / "dog", 2, first=70, suffix=".JpEg")
    spec = load_source(f"folder:{plain}")
    assert spec.labels == ("cat", "dog")
    assert sum(sizes(spec)) == 44


def test_the_fingerprint_is_that_of_the_contents(plain, tmp_path):
    fingerprint = load_source(f"folder:{plain}").fingerprint
    copy = shutil.copytree(plain, tmp_path / "copy")
    assert load_source(f"folder:{copy}").fingerprint == fingerprint
    write_images(copy / "cat", 1, first=19, size=(12, 11))
    assert load_source(f"folder:{copy}").fingerprint != fingerprint


def test_bad_files_are_named_together(plain):
    whole = (plain / "cat" / "000.jpg").read_bytes()
    (plain / "cat" / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    (plain / "cat" / "empty.png").write_bytes(b"")
    (plain / "dog" / "page.jpeg").write_text("<html>404</html>")
    with pytest.raises(UserError) as caught:
        load_source(f"folder:{plain}")
    message = str(caught.value)
    assert "3 files" in message
    for name in ("cat/torn.jpg", "cat/empty.png", "dog/page.jpeg"):
        assert name in message
    spec = load_source(f"folder:{plain}", bad_images="skip")
    assert spec.bad_images == {"cat": 2, "dog": 1}
    assert sum(sizes(spec)) == 40
    assert not names(spec.train) & {"cat/torn.jpg", "cat/empty.png", "dog/page.jpeg"}


def test_a_long_list_of_bad_files_is_cut(plain):
    for number in range(30):
        (plain / "cat" / f"bad{number}.jpg").write_text("no image")
    with pytest.raises(UserError, match="30 files") as caught:
        load_source(f"folder:{plain}")
    assert "and 10 more" in str(caught.value)
    assert str(caught.value).count("is no image") == 20


def test_a_torn_large_jpeg_is_found_although_few_of_its_pixels_are_computed(tmp_path):
    write_images(tmp_path, 1, size=(400, 300))
    contents = (tmp_path / "000.jpg").read_bytes()
    (tmp_path / "torn.jpg").write_bytes(contents[: int(len(contents) * 0.95)])
    whole, torn = scan_files([str(tmp_path / "000.jpg"), str(tmp_path / "torn.jpg")])
    assert (whole.problem, whole.height, whole.width) == (None, 300, 400)
    assert torn.problem is not None


def test_the_scan_knows_how_a_file_must_be_decoded(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "upright.jpg")
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.save(tmp_path / "color.png")
    image.save(tmp_path / "color.bmp")
    image.convert("1").save(tmp_path / "bilevel.bmp")
    image.save(tmp_path / "tiff.tif")
    (tmp_path / "tiff.tif").rename(tmp_path / "tiff.jpg")
    # Behind a comment TensorFlow's way does not look for the orientation.
    turned = (tmp_path / "turned.jpg").read_bytes()
    (tmp_path / "hidden.jpg").write_bytes(turned[:2] + b"\xff\xfe\x00\x04hi" + turned[2:])
    order = ["hidden.jpg", "upright.jpg", "turned.jpg", "color.png", "color.bmp", "bilevel.bmp", "tiff.jpg"]
    scanned = scan_files([str(tmp_path / name) for name in order])
    assert [file.decoder for file in scanned] == [
        DECODER_PILLOW,
        DECODER_JPEG,
        DECODER_TENSORFLOW,
        DECODER_TENSORFLOW,
        DECODER_TENSORFLOW,
        DECODER_PILLOW,
        DECODER_PILLOW,
    ]
    assert [(file.height, file.width) for file in scanned[:3]] == [(9, 8), (8, 9), (9, 8)]


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError, match="none at"):
        load_source(f"folder:{tmp_path / 'absent'}")


def test_no_class_folders(tmp_path):
    write_images(tmp_path, 3)
    with pytest.raises(UserError, match="holds no folder"):
        load_source(f"folder:{tmp_path}")


def test_one_class_is_none(tmp_path):
    write_images(tmp_path / "cat", 3)
    with pytest.raises(UserError, match="two of them"):
        load_source(f"folder:{tmp_path}")


def test_a_class_without_images(plain):
    (plain / "bird").mkdir()
    with pytest.raises(UserError, match=r"at least one image.*bird"):
        load_source(f"folder:{plain}")


def test_a_class_whose_images_are_all_bad(plain):
    (plain / "bird").mkdir()
    (plain / "bird" / "a.jpg").write_text("no image")
    with pytest.raises(UserError, match="'bird' has no readable image"):
        load_source(f"folder:{plain}", bad_images="skip")


def test_test_classes_other_than_training_classes(divided):
    (divided / "test" / "dog").rename(divided / "test" / "dogs")
    with pytest.raises(UserError, match="only in test: dogs; only in train: dog"):
        load_source(f"folder:{divided}")


def test_too_few_images_to_cut(tmp_path):
    write_images(tmp_path / "cat", 1)
    write_images(tmp_path / "dog", 1)
    with pytest.raises(UserError, match="test split would be empty"):
        load_source(f"folder:{tmp_path}")
