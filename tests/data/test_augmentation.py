"""Augmentations: what they may change, what they must not, and that a seed decides everything."""

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.data.augmentation import AUGMENTATIONS, augment_image, random_crop, random_resized_crop
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import resize_image
from keras_resnet.errors import UserError

SETTINGS = Preprocessing(32, 32, 3, (0.5,) * 3, (0.5,) * 3)


def numbered(count=200):
    """Images whose pixels are all different and above 0, which is the padding."""
    image = np.arange(1, 1025, dtype=np.int32).reshape(32, 32, 1)
    return np.repeat(image[np.newaxis], count, axis=0)


def expected_crop(image, top, left, flipped):
    padded = np.pad(image, [(4, 4), (4, 4), (0, 0)])[top : top + 32, left : left + 32]
    # The crop is flipped, or the image before it: the same set of results, so either may be meant. Ours flips
    # first.
    return padded if not flipped else np.pad(image[:, ::-1], [(4, 4), (4, 4), (0, 0)])[top : top + 32, left : left + 32]


@pytest.mark.parametrize("flip", [True, False])
def test_every_image_is_one_of_the_crops_of_the_padded_image(flip):
    images = numbered()
    cropped = random_crop(tf.constant(images), tf.constant([3, 4]), flip=flip).numpy()
    choices = {
        expected_crop(images[0], top, left, flipped).tobytes(): (top, left, flipped)
        for top in range(9)
        for left in range(9)
        for flipped in ((False, True) if flip else (False,))
    }
    drawn = [choices[image.tobytes()] for image in cropped]
    for axis in (0, 1):
        assert {choice[axis] for choice in drawn} == set(range(9))  # 200 draws miss one of 9 with 1e-9
    flipped = np.mean([choice[2] for choice in drawn])
    assert 0.3 < flipped < 0.7 if flip else flipped == 0  # 200 draws: a standard deviation of 0.035


def test_images_of_a_batch_are_drawn_independently():
    cropped = random_crop(tf.constant(numbered()), tf.constant([0, 0]), flip=True).numpy()
    assert len({image.tobytes() for image in cropped}) > 80  # of 162 possible ones


def test_the_padding_is_an_eighth_of_the_side():
    images = np.ones((300, 64, 24, 1), np.uint8)
    cropped = random_crop(tf.constant(images), tf.constant([1, 2]), flip=False).numpy()[..., 0]
    assert (cropped.max(axis=2) == 0).sum(axis=1).max() == 8
    assert (cropped.max(axis=1) == 0).sum(axis=1).max() == 3


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_same_seed_gives_the_same_image_and_another_seed_another(name):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    first, again, other = (augment_image(name, image, seed, SETTINGS).numpy() for seed in ([1, 2], [1, 2], [1, 3]))
    assert first.shape == (32, 32, 3)
    assert first.min() >= 0
    assert first.max() <= 255
    np.testing.assert_array_equal(first, again)
    assert name == "none" or (first != other).any()


def test_none_only_resizes():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    np.testing.assert_array_equal(augment_image("none", image, [0, 0], SETTINGS), resize_image(image, SETTINGS))


def test_a_random_rectangle_has_the_area_and_proportions_it_should():
    """The image is its own coordinates, so that the crop's corners can be read from its pixels (nearest
    neighbour, at 64 pixels: off by up to a sixty-fourth of the crop at either end).
    """
    height, width = 240, 320
    rows, columns = np.indices((height, width)).astype(np.float32)
    image = tf.constant(np.stack([rows, columns, rows], axis=-1))
    settings = Preprocessing(64, 64, 3, (0.5,) * 3, (0.5,) * 3, interpolation="nearest")
    crop = tf.function(lambda seed: random_resized_crop(image, seed, settings))
    areas, aspects, flipped = [], [], []
    for number in range(300):
        result = crop(tf.constant([number, 7])).numpy()
        crop_height = (result[-1, 0, 0] - result[0, 0, 0]) * 64 / 63
        across = result[0, -1, 1] - result[0, 0, 1]
        crop_width = abs(across) * 64 / 63
        flipped.append(across < 0)
        areas.append(crop_height * crop_width / (height * width))
        aspects.append(crop_width / crop_height)
    assert 0.06 < min(areas) < 0.15
    assert 0.85 < max(areas) < 1.05
    # Even over 0.08..1, but fewer of the largest rectangles fit: 0.434 in a simulation of the rule with
    # NumPy. The standard deviation of 300 draws is 0.0125; the bound is four of them.
    assert abs(np.mean(areas) - 0.434) < 0.05
    assert 0.7 < min(aspects) < 0.85
    assert 1.2 < max(aspects) < 1.43
    assert 0.38 < np.mean(flipped) < 0.62  # 300 draws: a standard deviation of 0.03


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (300, 1, 3), (2, 3, 3)])
def test_an_extreme_image_still_gives_a_crop(shape):
    image = tf.fill(shape, 77.0)
    for number in range(5):
        result = random_resized_crop(image, tf.constant([number, 0]), SETTINGS)
        np.testing.assert_allclose(result, np.full((32, 32, 3), 77.0), rtol=1e-5)


def test_an_unknown_augmentation_is_named():
    with pytest.raises(UserError, match="'crop_flip'"):
        augment_image("cropflip", np.zeros((8, 8, 3), np.uint8), [0, 0], SETTINGS)
