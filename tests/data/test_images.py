"""Resizing by Pillow alone, against the operators that training and exported graphs use."""

import os

import numpy as np
import pytest

from keras_resnet.data.images import decode_with_pillow, read_file, resize_with_pillow
from keras_resnet.data.preprocessing import INTERPOLATIONS, Preprocessing
from keras_resnet.data.transforms import resize_image
from keras_resnet.errors import UserError

SIZES = ((16, 20), (32, 40), (20, 25), (47, 61), (7, 9), (200, 150), (90, 16), (16, 90))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("resize", "crop_fraction"), [("squash", 1.0), ("crop", 1.0), ("crop", 0.8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_is_that_of_training(interpolation, resize, crop_fraction, channels):
    settings = Preprocessing(
        16, 20, channels, (0.5,) * channels, (0.2,) * channels,
        interpolation=interpolation, resize=resize, crop_fraction=crop_fraction,
    )  # fmt: skip
    random = np.random.default_rng(0)
    for height, width in SIZES:
        image = random.integers(0, 256, (height, width, channels)).astype(np.uint8)
        found, expected = resize_with_pillow(image, settings), np.asarray(resize_image(image, settings))
        assert found.dtype == np.float32
        if interpolation == "nearest":
            np.testing.assert_array_equal(found, expected, err_msg=f"{height} × {width}")
        else:
            # Float32's rounding of the weights, of 255.
            np.testing.assert_allclose(found, expected, atol=0.02, err_msg=f"{height} × {width}")


def test_a_strip_is_cropped_before_it_is_enlarged():
    settings = Preprocessing(224, 224, 3, (0.5,) * 3, (0.2,) * 3, resize="crop", crop_fraction=0.875)
    # As large as it has to be to cover the crop it would have 1,310,000,000 pixels.
    image = np.full((1, 20_000, 3), 77, np.uint8)
    assert (resize_with_pillow(image, settings) == 77).all()


def test_an_image_beyond_the_limit_is_refused_by_its_header():
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "PNG")
    assert decode_with_pillow(file.getvalue(), 3, name="x", max_pixels=1200).shape == (30, 40, 3)
    with pytest.raises(UserError, match="x has 40 × 30 pixels, at most 1,199 are allowed"):
        decode_with_pillow(file.getvalue(), 3, name="x", max_pixels=1199)
    with pytest.raises(UserError, match="not an image that can be read"):
        decode_with_pillow(file.getvalue(), 3, name="x", formats=("JPEG",))


def test_a_file_is_read_completely_when_its_file_system_returns_it_in_parts(tmp_path, monkeypatch):
    contents = bytes(range(256)) * 9
    (tmp_path / "a").write_bytes(contents)
    read = os.read
    monkeypatch.setattr(os, "read", lambda file, count: read(file, min(count, 1000)))
    assert read_file(tmp_path / "a") == contents
