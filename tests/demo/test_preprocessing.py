"""Pixels in the page against Python's, in a real browser."""

import base64
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from keras_resnet.data.images import decode_with_pillow
from keras_resnet.data.preprocessing import INTERPOLATIONS, Preprocessing
from keras_resnet.data.transforms import resize_image
from keras_resnet.demo.builder import PAGE

# Products and sums in float32, in another order than TensorFlow's: a few units of 255's last digit, 1.5e-5.
ROUNDING = 1e-3
TARGET = Preprocessing(40, 56, 3, (0.5,) * 3, (0.25,) * 3)


def encoded(picture: Image.Image, container: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, container, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def page(browser, served):
    """A page of the same origin as the modules."""
    with served(PAGE) as address:
        browser.ask("POST", "/url", {"url": f"{address}LICENSES.txt"})
        yield browser


def decoded_by(page, contents: bytes) -> np.ndarray:
    """uint8 [height, width, 3], as the page decodes a file."""
    found = page.run(
        """return (async () => {
        const { decode, pixelsOf } = await import("/decoding.js");
        const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
        const { bitmap, background } = await decode(new Blob([bytes]));
        const image = pixelsOf(bitmap, background);
        let text = "";
        for (let at = 0; at < image.data.length; at += 8192) {
          text += String.fromCharCode(...image.data.subarray(at, at + 8192));
        }
        return { width: image.width, data: btoa(text) };
        })()""",
        base64.b64encode(contents).decode(),
    )
    pixels = np.frombuffer(base64.b64decode(found["data"]), np.uint8).reshape(-1, found["width"], 4)
    assert (pixels[..., 3] == 255).all()
    return pixels[..., :3]


def resized_by(page, pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """float32 [height, width, channels], as the page brings an image to size."""
    rgba = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1)
    found = page.run(
        """return (async () => {
        const { networkInput } = await import("/preprocessing.js");
        const data = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
        const [, height, width, settings] = arguments;
        const bytes = new Uint8Array(networkInput({ data, height, width }, settings).buffer);
        let text = "";
        for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
        return btoa(text);
        })()""",
        base64.b64encode(rgba.tobytes()).decode(),
        *pixels.shape[:2],
        preprocessing.to_dict(),
    )
    shape = (preprocessing.height, preprocessing.width, preprocessing.channels)
    return np.frombuffer(base64.b64decode(found), np.float32).reshape(shape)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    "size", [(97, 211), (333, 250), (40, 56), (40, 111), (13, 9), (1, 1), (57, 56), (20, 28), (1201, 40)]
)
def test_resizing_is_that_of_tensorflow(page, interpolation, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for change in (
        {},
        {"resize": "crop"},
        {"resize": "crop", "crop_fraction": 0.875},
        {"resize": "crop", "channels": 1},
    ):
        if change.get("channels") == 1:
            change = change | {"mean": (0.5,), "std": (0.25,)}
        preprocessing = dataclasses.replace(TARGET, interpolation=interpolation, **change)
        expected = np.asarray(resize_image(decode_grey(pixels, preprocessing.channels), preprocessing))
        found = resized_by(page, pixels, preprocessing)
        np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING, err_msg=str(change))


def decode_grey(pixels: np.ndarray, channels: int) -> np.ndarray:
    return decode_with_pillow(encoded(Image.fromarray(pixels), "PNG"), channels, name="pixels")


def test_the_page_s_weights_are_not_those_of_another_kernel(page):
    """The tolerance tells interpolations apart."""
    pixels = np.random.default_rng(0).integers(0, 256, (97, 211, 3), np.uint8)
    results = [resized_by(page, pixels, dataclasses.replace(TARGET, interpolation=name)) for name in INTERPOLATIONS]
    for number, one in enumerate(results):
        assert all(np.abs(one - other).max() > 1 for other in results[:number])


def test_files_without_loss_are_decoded_to_the_same_pixels(page, files):
    for kind, path in files:
        if kind.startswith("png"):
            contents = path.read_bytes()
            expected = decode_with_pillow(contents, 3, name=kind)
            np.testing.assert_array_equal(decoded_by(page, contents), expected, err_msg=kind)


def test_jpeg_files_are_decoded_to_the_same_pixels(page, files):
    for kind, path in files:
        if kind.startswith("jpeg"):
            contents = path.read_bytes()
            expected = decode_with_pillow(contents, 3, name=kind).astype(int)
            found = decoded_by(page, contents)
            assert found.shape == expected.shape, kind
            # Chromium's decoder and Pillow's are one library: to the bit today, another version may round once.
            assert np.abs(found - expected).max() <= 1, kind


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_their_exif_says(page, orientation):
    picture = Image.fromarray(np.arange(6 * 4, dtype=np.uint8).reshape(4, 6).repeat(16, 0).repeat(16, 1) * 10)
    exif = Image.Exif()
    exif[0x0112] = orientation
    contents = encoded(picture.convert("RGB"), "JPEG", exif=exif, quality=100, subsampling=0)
    expected = decode_with_pillow(contents, 3, name="turned")
    np.testing.assert_allclose(decoded_by(page, contents), expected.astype(int), atol=1)


@pytest.mark.parametrize("container", ["PNG", "WEBP"])
def test_only_jpeg_files_are_turned(page, container):
    picture = Image.fromarray(np.random.default_rng(3).integers(0, 256, (9, 14, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    contents = encoded(picture, container, exif=exif, lossless=True)
    assert b"EXIF" in contents.upper()
    np.testing.assert_array_equal(decoded_by(page, contents), np.asarray(picture))


def test_transparent_pixels_lie_on_white_and_a_gif_s_on_black(page):
    random = np.random.default_rng(0)
    rgba = random.integers(0, 256, (31, 17, 4), np.uint8)
    rgba[:10, :, 3], rgba[10:20, :, 3] = 0, 255
    contents = encoded(Image.fromarray(rgba), "PNG")
    expected = decode_with_pillow(contents, 3, name="transparent").astype(int)
    found = decoded_by(page, contents)
    np.testing.assert_array_equal(found[:20], expected[:20])
    # A canvas keeps colours multiplied by their opacity, in 8 bits.
    assert np.abs(found - expected).max() <= 1
    palette = Image.fromarray(rgba[..., :3]).quantize(16)
    contents = encoded(palette, "GIF", transparency=3)
    np.testing.assert_array_equal(decoded_by(page, contents), decode_with_pillow(contents, 3, name="gif"))


def test_colours_are_those_of_the_file_whatever_its_profile(page):
    from PIL import ImageCms

    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB", colorTemp=5000)).tobytes()
    for options in ({"icc_profile": profile}, {"gamma": 1.0}, {}):
        contents = encoded(Image.fromarray(pixels), "PNG", **options)
        np.testing.assert_array_equal(decoded_by(page, contents), pixels, err_msg=str(options))


def test_formats_of_many_kinds_are_read_alike(page):
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 5, 3), np.uint8)).resize((61, 47))
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 256 + 77)
    kinds = {
        "bmp": encoded(picture, "BMP"),
        "webp without loss": encoded(picture, "WEBP", lossless=True),
        "png palette": encoded(picture.quantize(16), "PNG"),
        "png bilevel": encoded(picture.convert("1"), "PNG"),
        "png 16 bits": encoded(deep, "PNG"),
        "gif animated": encoded(
            picture.quantize(16), "GIF", save_all=True, append_images=[picture.rotate(180).quantize(8)]
        ),
    }
    for kind, contents in kinds.items():
        expected = decode_with_pillow(contents, 3, name=kind)
        apart = np.abs(decoded_by(page, contents).astype(int) - expected)
        # Of 16 bits a browser rounds to 8, and Python takes the upper half.
        assert apart.max() <= (1 if kind == "png 16 bits" else 0), kind


def test_grey_is_that_of_pillow(page):
    pixels = np.random.default_rng(2).integers(0, 256, (40, 56, 3), np.uint8)
    preprocessing = dataclasses.replace(TARGET, channels=1, mean=(0.5,), std=(0.25,))
    expected = np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(pixels), "PNG"))).convert("L"))
    np.testing.assert_array_equal(resized_by(page, pixels, preprocessing)[..., 0], expected)
