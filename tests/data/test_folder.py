"""Image folders: the layouts, the splits, and every way in which they can be wrong."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet.data import scanning
from keras_resnet.data.batches import evaluation_batches
from keras_resnet.data.dataset import IMAGENET_MEAN, channel_statistics
from keras_resnet.data.decoding import decode_image, decode_jpeg
from keras_resnet.data.images import read_image
from keras_resnet.data.jpeg_structure import whole_jpeg
from keras_resnet.data.scanning import named_unreadable_files, scan_files
from keras_resnet.data.sources import load_source
from keras_resnet.data.splits import DECODER_JPEG, DECODER_PILLOW, DECODER_TENSORFLOW
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
    assert str(caught.value).count("is not an image") == 20


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


def encoded(mode, container, size=(13, 9), **options):
    """The bytes of a small drawn image."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 19 % 256, y * 28 % 256, (x * y * 7) % 256], axis=-1).astype(np.uint8)
    image = Image.fromarray(pixels)
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, container, **options)
    return file.getvalue()


def damaged_files(count, seed=0):
    """Files of every container, cut, overwritten, with a byte changed or a part lost; not all of them are broken."""
    exif = Image.Exif()
    exif[0x0112] = 6
    bases = [
        ("a.jpg", encoded("RGB", "JPEG")),
        ("b.jpg", encoded("L", "JPEG")),
        ("c.jpg", encoded("RGB", "JPEG", progressive=True, size=(40, 33))),
        ("d.jpg", encoded("RGB", "JPEG", exif=exif)),
        ("a.png", encoded("RGB", "PNG")),
        ("b.png", encoded("LA", "PNG")),
        ("c.png", encoded("P", "PNG")),
        ("d.png", encoded("1", "PNG")),
        ("a.gif", encoded("P", "GIF")),
        ("a.bmp", encoded("RGB", "BMP")),
        ("b.bmp", encoded("P", "BMP")),
        ("c.bmp", encoded("L", "BMP")),
        ("a.webp", encoded("RGB", "WEBP")),
        ("b.webp", encoded("RGBA", "WEBP", lossless=True)),
    ]
    random = np.random.default_rng(seed)
    for number in range(count):
        name, contents = bases[number % len(bases)]
        contents = bytearray(contents)
        place = int(random.integers(4, len(contents)))
        kind = number // len(bases) % 5
        if kind == 0:
            contents = contents[:place]
        elif kind == 1:
            contents[place] = random.integers(256)
        elif kind == 2:
            contents[place:] = random.bytes(len(contents) - place)
        elif kind == 3:
            end = min(len(contents), place + int(random.integers(1, 30)))
            del contents[place:end]
        else:  # most headers lie here
            contents[int(random.integers(2, min(64, len(contents))))] = random.integers(256)
        yield f"{number:04d}{name}", bytes(contents)


def test_what_passes_the_scan_can_be_read_by_the_decoder_of_training(tmp_path):
    paths = []
    for name, contents in damaged_files(2000):
        (tmp_path / name).write_bytes(contents)
        paths.append(str(tmp_path / name))
    scanned = scan_files(paths)
    passed = [(path, file) for path, file in zip(paths, scanned, strict=True) if file.problem is None]
    # Neither everything nor nothing: a changed pixel leaves a whole image.
    assert 200 < len(passed) < 1800
    failed = []
    general = tf.function(lambda contents: decode_image(contents, 3), input_signature=[tf.TensorSpec([], tf.string)])
    for path, file in passed:
        try:
            if file.decoder == DECODER_PILLOW:
                image = read_image(path, 3)
            else:
                contents = tf.constant(Path(path).read_bytes())
                image = decode_jpeg(contents, 3) if file.decoder == DECODER_JPEG else general(contents)
            if tuple(image.shape[:2]) != (file.height, file.width):
                failed.append((path, image.shape))
            read_image(path, 3)  # statistics and predictions read it with Pillow
        except (tf.errors.OpError, UserError) as error:
            failed.append((path, str(error)[:100]))
    assert not failed, f"{len(failed)} of {len(passed)}: {failed[:5]}"


def animated_webp(path, size=(20, 20), frames=5):
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)) for _ in range(frames)]
    pictures[0].save(path, "WEBP", save_all=True, append_images=pictures[1:], lossless=True)
    return np.asarray(pictures[0])


@pytest.mark.parametrize("size", [(20, 20), (500, 500)])
def test_an_animated_webp_is_read_by_its_first_frame(plain, size):
    first = animated_webp(plain / "cat" / "moving.webp", size)
    (file,) = scan_files([str(plain / "cat" / "moving.webp")])
    assert (file.problem, file.decoder) == (None, DECODER_PILLOW)
    np.testing.assert_array_equal(read_image(plain / "cat" / "moving.webp"), first)
    spec = load_source(f"folder:{plain}", image_size=8)
    for split in (spec.train, spec.validation, spec.test):
        for images, _ in evaluation_batches(split, spec.preprocessing(), batch_size=4):
            assert np.isfinite(images).all()


def test_an_animated_webp_never_reaches_the_operator_that_it_breaks(tmp_path):
    """In a process of its own: the operator wrote past its buffer and took the process with it."""
    animated_webp(tmp_path / "moving.webp")
    program = (
        "import sys, tensorflow as tf\n"
        "from keras_resnet.data.decoding import decode_image\n"
        "read = tf.function(lambda c: decode_image(c, 3), input_signature=[tf.TensorSpec([], tf.string)])\n"
        "contents = open(sys.argv[1], 'rb').read()\n"
        "for number in range(20):\n"
        "    for decode in (read, lambda c: decode_image(c, 3)):\n"
        "        try:\n            decode(tf.constant(contents))\n"
        "        except tf.errors.InvalidArgumentError as error:\n            assert 'animated' in str(error)\n"
        "        else:\n            raise AssertionError('decoded')\n"
        "print('refused')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "moving.webp")],
        capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "refused"), done.stderr[-2000:]


def test_an_eps_file_under_another_name_is_not_handed_to_ghostscript(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **options: started.append(arguments))
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(UserError, match="not an image"):
        read_image(path)
    assert scan_files([str(path)])[0].problem == "is not an image"
    assert not started


def test_loops_pipes_and_devices_are_refused_not_followed(plain):
    os.symlink("loop", plain / "loop")
    os.symlink("turn.jpg", plain / "cat" / "turn.jpg")
    os.mkfifo(plain / "cat" / "pipe.jpg")
    os.symlink("/dev/zero", plain / "dog" / "endless.jpg")
    os.symlink(plain, plain / "dog" / "above")
    spec = load_source(f"folder:{plain}")
    assert (spec.labels, sum(sizes(spec))) == (("cat", "dog"), 40)
    for place in (plain / "cat" / "pipe.jpg", "/dev/zero", plain / "cat" / "turn.jpg"):
        with pytest.raises(UserError, match="Cannot read the image"):
            read_image(place)
        assert scan_files([str(place)])[0].problem.startswith("cannot be read")


def test_a_file_damaged_after_the_scan_is_named(plain):
    spec = load_source(f"folder:{plain}", image_size=8)
    victim = spec.test.paths[3]
    Path(victim).write_bytes(Path(victim).read_bytes()[:200])
    with pytest.raises(UserError, match="damaged or removed after") as caught, named_unreadable_files(spec.test):
        list(evaluation_batches(spec.test, spec.preprocessing(), batch_size=4))
    assert str(caught.value).startswith(victim)
    with pytest.raises(tf.errors.InvalidArgumentError), named_unreadable_files(spec.train):
        list(evaluation_batches(spec.test, spec.preprocessing(), batch_size=4))


def test_a_damaged_file_is_found_by_decoding(plain, monkeypatch):
    """A file is named even if its structure looked complete."""
    spec = load_source(f"folder:{plain}", image_size=8)
    victim = Path(spec.test.paths[3])
    header = whole_jpeg(victim.read_bytes())
    victim.write_bytes(victim.read_bytes()[:-20])
    monkeypatch.setattr(scanning, "whole_jpeg", lambda contents: header)
    assert scan_files([str(victim)])[0].problem is None
    with pytest.raises(UserError, match="damaged or removed after") as caught, named_unreadable_files(spec.test):
        list(evaluation_batches(spec.test, spec.preprocessing(), batch_size=4))
    assert str(caught.value).startswith(str(victim))
