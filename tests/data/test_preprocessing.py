"""Decoding against Pillow bit for bit, resizing against Pillow within its rounding, and the settings' round
trip.
"""

import dataclasses
import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet.data.decoding import decode_image, decode_jpeg
from keras_resnet.data.images import decode_with_pillow, read_image
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import normalize, preprocess, resize_image
from keras_resnet.errors import UserError

COLOR = Preprocessing(height=20, width=31, channels=3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
GREY = Preprocessing(height=20, width=31, channels=1, mean=(0.5,), std=(0.25,))


def smooth_image(height: int = 47, width: int = 61) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def encoded(image: Image.Image, container: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, container, **options)
    return buffer.getvalue()


def files() -> dict[str, bytes]:
    color = smooth_image()
    grey = color.convert("L")
    palette = color.quantize(16)
    opacity = Image.fromarray(np.random.default_rng(1).integers(0, 256, (47, 61), np.uint8))
    transparent = color.copy()
    transparent.putalpha(opacity)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257 + 3)
    turned = color.rotate(180)
    return {
        "jpeg": encoded(color, "JPEG"),
        "jpeg full chroma": encoded(color, "JPEG", subsampling=0, quality=60),
        "jpeg progressive": encoded(color, "JPEG", progressive=True),
        "jpeg grey": encoded(grey, "JPEG"),
        "jpeg cmyk": encoded(color.convert("CMYK"), "JPEG"),
        "png": encoded(color, "PNG"),
        "png grey": encoded(grey, "PNG"),
        "png bilevel": encoded(color.convert("1"), "PNG"),
        "png palette": encoded(palette, "PNG"),
        "png palette, 4 bits": encoded(palette, "PNG", bits=4),
        "png palette with a transparent colour": encoded(palette, "PNG", transparency=3),
        "png grey with opacity": encoded(transparent.convert("LA"), "PNG"),
        "png with opacity": encoded(transparent, "PNG"),
        "png 16 bits": encoded(deep, "PNG"),
        "gif": encoded(palette, "GIF"),
        "gif with a transparent colour": encoded(palette, "GIF", transparency=3),
        "gif animated": encoded(palette, "GIF", save_all=True, append_images=[turned.quantize(16)]),
        "bmp": encoded(color, "BMP"),
        "bmp grey": encoded(grey, "BMP"),
        "bmp palette": encoded(palette, "BMP"),
        "bmp 32 bits": encoded(transparent, "BMP"),
        "webp": encoded(color, "WEBP"),
        "webp with opacity": encoded(transparent, "WEBP"),
    }


@pytest.fixture(scope="module")
def decoders():
    """`decode_image` as a graph of one signature, as serving runs it."""
    signature = [tf.TensorSpec([], tf.string)]
    return {channels: tf.function(lambda c, n=channels: decode_image(c, n), signature) for channels in (1, 3)}


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", files())
def test_decoding_in_the_graph_equals_pillow_bit_for_bit(decoders, name, channels):
    contents = files()[name]
    expected = decode_with_pillow(contents, channels, name=name)
    decoded = decoders[channels](contents)
    assert decoded.dtype == tf.uint8
    assert expected.shape == (47, 61, channels)
    np.testing.assert_array_equal(decoded.numpy(), expected)


def test_pillow_and_the_rules_agree_on_what_an_image_shows():
    """The reference itself: lossless files of one picture decode to that picture, whatever their format."""
    color = smooth_image()
    for container in ("PNG", "BMP"):
        decoded = decode_with_pillow(encoded(color, container), 3, name=container)
        np.testing.assert_array_equal(decoded, np.asarray(color))
    grey = decode_with_pillow(encoded(color, "PNG"), 1, name="grey")
    np.testing.assert_array_equal(grey[..., 0], np.asarray(color.convert("L")))


def test_transparent_pixels_become_white(decoders):
    clear = Image.new("RGBA", (4, 4), (10, 200, 30, 0))
    assert (decoders[3](encoded(clear, "PNG")).numpy() == 255).all()


def test_sixteen_bits_keep_the_high_byte(decoders):
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    decoded = decoders[1](encoded(Image.fromarray(values), "PNG")).numpy()
    np.testing.assert_array_equal(decoded[..., 0], values >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("with_jfif_header", [True, False])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_exif_orientation_is_applied(decoders, orientation, with_jfif_header, byte_order):
    exif = Image.Exif()
    exif.endian = byte_order
    exif[0x010E] = "a description in front of it"
    exif[0x0112] = orientation
    contents = encoded(smooth_image(), "JPEG", exif=exif)
    if not with_jfif_header:
        assert contents[2:4] == b"\xff\xe0"
        length = int.from_bytes(contents[4:6], "big")
        contents = contents[:2] + contents[4 + length :]
    decoded = decoders[3](contents).numpy()
    expected = decode_with_pillow(contents, 3, name="turned")
    assert decoded.shape == ((61, 47, 3) if orientation >= 5 else (47, 61, 3))
    np.testing.assert_array_equal(decoded, expected)
    if orientation > 1:
        upright = decode_with_pillow(encoded(smooth_image(), "JPEG"), 3, name="upright")
        assert decoded.shape != upright.shape or (decoded != upright).any()


def test_a_damaged_exif_raises_nothing(decoders):
    """Whatever bytes the EXIF holds, the picture is decoded: positions outside of it read as zero."""
    exif = Image.Exif()
    exif[0x0112] = 6
    contents = bytearray(encoded(smooth_image(), "JPEG", exif=exif))
    start = contents.index(b"Exif") + 6
    rng = np.random.default_rng(0)
    for _ in range(20):
        contents[start : start + 22] = rng.bytes(22)  # header, count and the one entry
        assert decoders[3](bytes(contents)).shape[-1] == 3


def test_the_short_way_for_jpeg_equals_the_long_one():
    contents = files()["jpeg"]
    for channels in (1, 3):
        np.testing.assert_array_equal(decode_jpeg(contents, channels), decode_image(contents, channels))


@pytest.mark.parametrize("contents", [b"", b"\xff", b"plainly no image at all", b"\xff\xd8\xff\xe0 torn"])
def test_what_is_no_image_raises_in_the_graph(decoders, contents):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoders[3](contents)


@pytest.mark.parametrize("name", ["text.jpg", "torn.jpg", "absent.jpg"])
def test_read_image_names_the_file_that_it_cannot_read(tmp_path, name):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "torn.jpg").write_bytes(files()["jpeg"][:-200])
    with pytest.raises(UserError, match=name):
        read_image(tmp_path / name)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos3", "nearest"])
@pytest.mark.parametrize("size", [(20, 31), (90, 100), (47, 61)])
def test_squash_equals_pillow_within_its_rounding(interpolation, size):
    """Pillow rounds to whole grey levels after each of its two passes: half a level each, up to about twice
    that where the second pass' negative weights (bicubic, Lanczos) amplify the first one's rounding.
    """
    settings = dataclasses.replace(COLOR, height=size[0], width=size[1], interpolation=interpolation)
    image = smooth_image()
    filters = {"bilinear": 2, "bicubic": 3, "lanczos3": 1, "nearest": 0}
    expected = np.asarray(image.resize(size[::-1], filters[interpolation]), np.float32)
    resized = resize_image(np.asarray(image), settings)
    assert resized.dtype == tf.float32
    tolerance = {"bilinear": 1.01, "nearest": 0.0}.get(interpolation, 1.5)
    assert np.abs(resized.numpy() - expected).max() <= tolerance


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos3", "nearest"])
@pytest.mark.parametrize("shape", [(61, 47, 3), (13, 90, 3), (2, 25, 19, 1), (1, 200, 3)])
def test_resizing_equals_tensorflow_to_the_bit(interpolation, shape):
    """The same operator, once along columns and once along turned rows: the same sums in the same order."""
    preprocessing = dataclasses.replace(COLOR if shape[-1] == 3 else GREY, interpolation=interpolation)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    size = (preprocessing.height, preprocessing.width)
    expected = tf.cast(tf.image.resize(images, size, interpolation, antialias=True), tf.float32)
    np.testing.assert_array_equal(resize_image(images, preprocessing), tf.clip_by_value(expected, 0.0, 255.0))


@pytest.mark.parametrize("shape", [(47, 61), (61, 47), (50, 50), (200, 21), (24, 33)])
@pytest.mark.parametrize("fraction", [1.0, 0.875])
def test_crop_equals_pillow_resize_then_centre_crop(shape, fraction):
    """Tolerance as for squash; the sizes are torchvision's: shorter side exact, longer rounded down, halves
    to even.
    """
    image = smooth_image(*shape)
    settings = dataclasses.replace(COLOR, height=24, width=24, resize="crop", crop_fraction=fraction)
    side = round(24 / fraction)
    height, width = shape
    size = (side * height // width, side) if height >= width else (side, side * width // height)
    top, left = round((size[0] - 24) / 2), round((size[1] - 24) / 2)
    resized = np.asarray(image.resize(size[::-1], 2), np.float32)
    expected = resized[top : top + 24, left : left + 24]
    assert np.abs(resize_image(np.asarray(image), settings).numpy() - expected).max() <= 1.01


def test_crop_keeps_proportions_and_the_centre():
    """A wide image with a black left and right margin: the crop sees none of them."""
    image = np.zeros((30, 90, 3), np.uint8)
    image[:, 30:60] = 200
    settings = dataclasses.replace(COLOR, height=15, width=15, resize="crop", interpolation="nearest")
    assert (resize_image(image, settings).numpy() == 200).all()


def test_an_image_of_the_right_size_is_left_as_it_is():
    image = np.asarray(smooth_image(20, 31))
    for resize in ("squash", "crop"):
        settings = dataclasses.replace(COLOR, resize=resize)
        np.testing.assert_array_equal(resize_image(image, settings), image.astype(np.float32))


def test_a_batch_and_its_images_one_by_one_give_the_same():
    batch = np.random.default_rng(0).integers(0, 256, (3, 25, 19, 3), np.uint8)
    for resize in ("squash", "crop"):
        settings = dataclasses.replace(COLOR, resize=resize)
        together = preprocess(batch, settings).numpy()
        single = np.stack([preprocess(image, settings).numpy() for image in batch])
        np.testing.assert_array_equal(together, single)


def test_resizing_in_a_graph_of_any_size_equals_eager():
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def graph(images):
        return preprocess(images, dataclasses.replace(COLOR, resize="crop"))

    image = np.asarray(smooth_image())[np.newaxis]
    eager = preprocess(image, dataclasses.replace(COLOR, resize="crop"))
    assert graph.get_concrete_function().structured_outputs.shape.as_list() == [None, 20, 31, 3]
    np.testing.assert_array_equal(graph(image), eager)


def test_grey_and_colour_are_converted_to_the_network():
    image = np.asarray(smooth_image(20, 31))
    grey = resize_image(image, GREY).numpy()
    expected = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    np.testing.assert_array_equal(grey[..., 0], expected)
    back = resize_image(grey, COLOR).numpy()
    assert back.shape == (20, 31, 3)
    np.testing.assert_array_equal(back, np.repeat(grey, 3, axis=-1))


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_normalize_is_the_formula(order):
    """float32 has 24 bits: products and a sum of values near 10 are off by a few 1e-7 of them."""
    settings = dataclasses.replace(COLOR, color_order=order)
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    pixels = image[..., ::-1] if order == "bgr" else image
    expected = (pixels / 255.0 - np.array(settings.mean)) / np.array(settings.std)
    normalized = normalize(image, settings)
    assert normalized.dtype == tf.float32
    np.testing.assert_allclose(normalized.numpy(), expected, atol=2e-6)


def test_settings_survive_json():
    settings = dataclasses.replace(COLOR, labels=("cat", "Hund", "naïve"), resize="crop", crop_fraction=0.875)
    restored = Preprocessing.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert restored == settings
    assert restored.fingerprint() == settings.fingerprint()
    assert len(settings.fingerprint()) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"height": 21},
        {"mean": (0.1, 0.2, 0.31)},
        {"labels": ("a", "b")},
        {"color_order": "bgr"},
        {"resize": "crop"},
    ],
)
def test_every_setting_changes_the_fingerprint(change):
    assert dataclasses.replace(COLOR, **change).fingerprint() != COLOR.fingerprint()


def test_from_dict_is_strict():
    settings = COLOR.to_dict()
    with pytest.raises(UserError, match=r"Unknown preprocessing key 'heigth'.*'height'"):
        Preprocessing.from_dict({**settings, "heigth": 3})
    settings.pop("std")
    with pytest.raises(UserError, match="missing: std"):
        Preprocessing.from_dict(settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "height"),
        ({"width": 3.5}, "width"),
        ({"channels": 4}, "1 channel"),
        ({"mean": (0.5,)}, "one number per channel"),
        ({"std": (0.1, 0.0, 0.1)}, "above 0"),
        ({"mean": (0.5, 0.5, float("nan"))}, "finite"),
        ({"color_order": "grb"}, "Unknown color_order"),
        ({"interpolation": "biliner"}, "'bilinear'"),
        ({"resize": "stretch"}, "Unknown resize"),
        ({"crop_fraction": 0.0}, "crop_fraction"),
        ({"resize": "crop", "crop_fraction": 0.001}, "at most 8,192 pixels a side before the crop"),
        ({"labels": "cat"}, "labels"),
    ],
)
def test_settings_that_break_a_rule_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(COLOR, **change)


@pytest.mark.parametrize("label", ["two\nlines", "a\u2028b", "", "caf\udce9"])
def test_class_names_are_lines_of_text(label):
    with pytest.raises(UserError, match="must be one line of text in UTF-8"):
        Preprocessing(4, 4, 1, (0.5,), (0.5,), labels=("cat", label))
