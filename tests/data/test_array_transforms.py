"""NumPy's resizing and normalizing are TensorFlow's, bit for bit."""

import dataclasses

import numpy as np
import pytest

from keras_resnet.data import array_transforms, transforms
from keras_resnet.data.preprocessing import Preprocessing

SETTINGS = Preprocessing(24, 20, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
SIZES = [(24, 20), (61, 47), (11, 13), (24, 90), (300, 9), (1, 1)]


def draw(size, channels=3, dtype=np.uint8, count=()):
    return np.random.default_rng(0).integers(0, 256, (*count, *size, channels)).astype(dtype)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_resizing_gives_the_same_bits(size, resize, interpolation):
    settings = dataclasses.replace(SETTINGS, resize=resize, interpolation=interpolation, crop_fraction=0.8)
    for images in (draw(size), draw(size, count=(2,)), draw(size, dtype=np.float32)):
        expected = transforms.resize_image(images, settings)
        np.testing.assert_array_equal(array_transforms.resize_image(images, settings), expected)


@pytest.mark.parametrize("size", SIZES)
def test_lanczos_differs_by_the_rounding_of_a_sine(size):
    settings = dataclasses.replace(SETTINGS, interpolation="lanczos3")
    images = draw(size)
    # Two libraries' sines in float32, added up over some tens of pixels of up to 255.
    np.testing.assert_allclose(
        array_transforms.resize_image(images, settings), transforms.resize_image(images, settings), atol=2e-3
    )


@pytest.mark.parametrize(("given", "wanted"), [(1, 3), (3, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_channels_are_converted_alike(given, wanted, dtype):
    mean = (0.5,) * wanted
    settings = Preprocessing(16, 16, wanted, mean, mean)
    images = draw((16, 16), given, dtype)
    expected = transforms.resize_image(images, settings)
    # Grey from floating-point colours is a sum of three, in either order.
    np.testing.assert_allclose(array_transforms.resize_image(images, settings), expected, rtol=2e-7)
    if dtype == np.uint8:
        np.testing.assert_array_equal(array_transforms.resize_image(images, settings), expected)


@pytest.mark.parametrize("color_order", ["rgb", "bgr"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalizing_gives_the_same_bits(color_order, dtype):
    settings = dataclasses.replace(SETTINGS, color_order=color_order)
    images = draw((24, 20), dtype=dtype, count=(3,))
    np.testing.assert_array_equal(array_transforms.normalize(images, settings), transforms.normalize(images, settings))
    np.testing.assert_array_equal(
        array_transforms.preprocess(images, settings), transforms.preprocess(images, settings)
    )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos3", "nearest"])
@pytest.mark.parametrize(("source", "target"), [(30, 12), (12, 30), (7, 7)])
def test_the_matrix_of_a_resize_does_the_same(interpolation, source, target):
    row = draw((source, 1), 1)
    settings = Preprocessing(target, 1, 1, (0.0,), (1.0,), interpolation=interpolation)
    matrix = array_transforms.resize_matrix(source, target, interpolation)
    expected = array_transforms.resize_image(row, settings)[:, 0, 0]
    np.testing.assert_allclose((matrix @ row[:, 0, 0]).clip(0, 255), expected, atol=1e-3)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-6)
