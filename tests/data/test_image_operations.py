"""Operations on images: not a bit differs from Pillow's, which is what other libraries call."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from keras_resnet.data.image_operations import OPERATIONS, apply_operations

SIZES = [(32, 32), (17, 40), (64, 21), (2, 5)]
FACTORS = (0.0, 0.1, 0.37, 0.5, 1.0, 1.3, 1.9, 4.0)


def affine(*coefficients):
    return lambda image, fill: image.transform(
        image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.NEAREST, fillcolor=fill
    )


def fill_of(image, value):
    return value if image.mode == "L" else (value,) * 3


def translate(axis):
    return lambda image, size, fill: affine(*((1, 0, -size, 0, 1, 0) if axis == 0 else (1, 0, 0, 0, 1, -size)))(
        image, fill
    )


# Operation → (what Pillow does, magnitudes with both extremes).
GEOMETRIC = {
    "shear_x": (lambda image, m, fill: affine(1, m, 0, 0, 1, 0)(image, fill), (-0.99, -0.3, -0.17, 0.0, 0.01, 0.5)),
    "shear_y": (lambda image, m, fill: affine(1, 0, 0, m, 1, 0)(image, fill), (-0.99, -0.3, -0.17, 0.0, 0.01, 0.5)),
    "translate_x": (translate(0), (-100.0, -14.0, -1.0, 0.0, 3.0, 7.25, 32.0)),
    "translate_y": (translate(1), (-100.0, -14.0, -1.0, 0.0, 3.0, 7.25, 32.0)),
    "rotate": (
        lambda image, m, fill: image.rotate(m, Image.Resampling.NEAREST, fillcolor=fill),
        (-135.0, -90.0, -30.0, -9.3, 0.0, 1.0, 45.0, 77.7, 90.0, 180.0),
    ),
}
COLOR = {
    "identity": (lambda image, m: image, (0.0,)),
    "brightness": (lambda image, m: ImageEnhance.Brightness(image).enhance(m), FACTORS),
    "color": (lambda image, m: ImageEnhance.Color(image).enhance(m), FACTORS),
    "contrast": (lambda image, m: ImageEnhance.Contrast(image).enhance(m), FACTORS),
    "sharpness": (lambda image, m: ImageEnhance.Sharpness(image).enhance(m), FACTORS),
    "posterize": (lambda image, m: ImageOps.posterize(image, int(m)), tuple(range(1, 9))),
    "solarize": (ImageOps.solarize, (0.0, 1.0, 76.5, 128.0, 255.0, 256.0)),
    "solarize_add": (
        lambda image, m: image.point(
            [min(255, v + int(m)) if v < 128 else v for v in range(256)] * len(image.getbands())
        ),
        (0.0, 33.9, 110.0, 128.0),
    ),
    "invert": (lambda image, m: ImageOps.invert(image), (0.0,)),
    "autocontrast": (lambda image, m: ImageOps.autocontrast(image), (0.0,)),
    "equalize": (lambda image, m: ImageOps.equalize(image), (0.0,)),
}


def drawn_images(size, channels):
    """Noise, a dark and a narrow range, a smooth picture, few values and a single one."""
    rng = np.random.default_rng(sum(size) + channels)
    shape = (*size, channels)
    smooth = np.asarray(
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC)
    )
    return np.stack(
        [
            rng.integers(0, 256, shape),
            rng.integers(0, 90, shape),
            rng.integers(101, 108, shape),
            smooth[..., :channels],
            rng.choice([3, 250], shape),
            np.full(shape, 77),
        ]
    ).astype(np.uint8)


def in_pillow(image):
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def test_every_operation_is_compared():
    assert {*GEOMETRIC, *COLOR} == set(OPERATIONS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_equals_pillows(name, channels):
    operation = tf.function(OPERATIONS[name])
    reference, magnitudes = (GEOMETRIC | COLOR)[name]
    for size in SIZES:
        images = drawn_images(size, channels)
        for fill in (0, 128) if name in GEOMETRIC else (None,):
            for magnitude in np.float32(magnitudes):
                options = {} if fill is None else {"fill": fill}
                changed = operation(tf.constant(images), tf.fill([len(images)], magnitude), **options).numpy()
                for image, result in zip(images, changed, strict=True):
                    picture = in_pillow(image)
                    extra = () if fill is None else (fill_of(picture, fill),)
                    expected = np.asarray(reference(picture, float(magnitude), *extra)).reshape(image.shape)
                    np.testing.assert_array_equal(result, expected, err_msg=f"{name} {size} {magnitude} {fill}")


def test_each_image_gets_its_own_operation_and_magnitude():
    names = list(OPERATIONS)
    images = np.random.default_rng(3).integers(0, 256, (40, 20, 24, 3), np.uint8)
    chosen = np.random.default_rng(4).integers(0, len(names), 40)
    magnitudes = np.random.default_rng(5).uniform(0, 8, 40).astype(np.float32)
    dispatched = apply_operations(tf.constant(images), names, tf.constant(chosen, tf.int32), magnitudes, fill=9)
    for image, which, magnitude, result in zip(images, chosen, magnitudes, dispatched.numpy(), strict=True):
        options = {"fill": 9} if names[which] in GEOMETRIC else {}
        alone = OPERATIONS[names[which]](tf.constant(image[None]), tf.constant([magnitude]), **options)
        np.testing.assert_array_equal(result, alone[0])


def test_an_operation_that_nobody_chose_gets_an_empty_batch():
    images = tf.constant(np.random.default_rng(3).integers(0, 256, (2, 8, 8, 3), np.uint8))
    changed = apply_operations(images, list(OPERATIONS), tf.zeros([2], tf.int32), tf.zeros([2]))
    np.testing.assert_array_equal(changed, images)


def test_no_bits_leave_black():
    images = tf.constant(drawn_images((8, 8), 3))
    assert not OPERATIONS["posterize"](images, tf.zeros([len(images)])).numpy().any()
