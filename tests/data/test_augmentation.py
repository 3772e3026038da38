"""Augmentations: what they may change, what they must not, and that a seed decides everything."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.data.augmentation import AUGMENTATIONS, parse_augmentation
from keras_resnet.data.augmentation_steps import random_crop, random_erasing, random_flip
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import resize_image
from keras_resnet.errors import UserError

SETTINGS = Preprocessing(32, 32, 3, (0.5,) * 3, (0.5,) * 3)


def augmented(text, images, seed, settings=SETTINGS, labels=None):
    """Images of one size through every step, and their targets of four classes."""
    augmentation = parse_augmentation(text)
    resized = tf.stack([augmentation.change_image(image, tf.constant(seed), settings) for image in images])
    labels = tf.constant(np.arange(len(images)) % 4 if labels is None else labels, tf.int32)
    changed, targets = augmentation.change_batch(resized, labels, tf.constant(seed), num_classes=4)
    return changed.numpy(), targets.numpy()


def numbered(count=200):
    """Images whose pixels are all different and above 0, which is the padding."""
    image = np.arange(1, 1025, dtype=np.int32).reshape(32, 32, 1)
    return np.repeat(image[np.newaxis], count, axis=0)


def expected_crop(image, top, left, flipped):
    padded = np.pad(image, [(4, 4), (4, 4), (0, 0)])[top : top + 32, left : left + 32]
    # The crop is flipped, or the image before it: the same set of results, so either may be meant. Ours flips first.
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


@pytest.mark.parametrize("name", [*AUGMENTATIONS, "crop_flip,mixup:0.4,cutmix"])
def test_the_same_seed_gives_the_same_images_and_another_seed_others(name):
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    first, again, other = (augmented(name, images, seed) for seed in ([1, 2], [1, 2], [1, 4]))
    assert first[0].shape == (3, 32, 32, 3)
    assert first[0].min() >= 0
    assert first[0].max() <= 255
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert name == "none" or (first[0] != other[0]).any()


def test_none_only_resizes():
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), np.uint8)
    changed, labels = augmented("none", images, [0, 0])
    np.testing.assert_array_equal(changed, resize_image(images, SETTINGS))
    np.testing.assert_array_equal(labels, [0, 1])


def flat_images(values):
    return np.repeat(np.array(values, np.uint8), 32 * 32 * 3).reshape(len(values), 32, 32, 3)


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0])
def test_mixup_blends_images_and_targets_by_one_share(alpha):
    shares = []
    for number in range(60):
        images, targets = augmented(f"mixup:{alpha}", flat_images([0, 50, 100, 200]), [number, 3])
        share = targets[0, 0]
        shares.append(share)
        # The images' mass moves as the targets' does: within the rounding of float32 at 200.
        np.testing.assert_allclose(images[:, 5, 6, 1], targets @ [0, 50, 100, 200], atol=1e-4)
        np.testing.assert_allclose(targets, share * np.eye(4) + (1 - share) * np.eye(4)[::-1], atol=1e-6)
    # Beta(α, α) has the mean 1/2 and the variance 1 / (4 (2α + 1)); 60 draws: a standard error of at most 0.065, and of
    # the variance of at most 0.012.
    assert abs(np.mean(shares) - 0.5) < 0.25
    assert abs(np.var(shares) - 1 / (4 * (2 * alpha + 1))) < 0.05


def test_cutmix_pastes_one_rectangle_and_counts_its_pixels():
    shares = []
    for number in range(200):
        images, targets = augmented("cutmix", flat_images([10, 20, 30, 40]), [number, 5])
        pasted = images[0, :, :, 0] == 40
        assert ((images[0, :, :, 0] == 10) | pasted).all()
        rows, columns = pasted.any(1), pasted.any(0)
        np.testing.assert_array_equal(pasted, rows[:, None] & columns[None])  # a rectangle
        for side in (rows, columns):
            assert np.abs(np.diff(np.pad(side.astype(int), 1))).sum() in (0, 2)  # in one piece
        np.testing.assert_allclose(targets[0], [1 - pasted.mean(), 0, 0, pasted.mean()], atol=1e-6)
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        shares.append(pasted.mean())
    # Without the border 1/2 of the area would be pasted; of a square of side s, centred evenly, (1 - s/4)² s² is left.
    # Over s² even in 0..1 that is 0.5 - 2/5 · 1/2 + 1/16 · 1/3 ≈ 0.321; 200 draws have a standard error of 0.015.
    assert abs(np.mean(shares) - 0.321) < 0.06


def test_mixup_cutmix_mixes_each_batch_in_one_of_both_ways():
    cut, blended = 0, 0
    text = "mixup_cutmix:1.0:1.0:0.25:0.6"
    for number in range(200):
        images, targets = augmented(text, flat_images([10, 30, 90, 250]), [number, 5])
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        # Both conserve mass: an image's mean is its targets' mixture. Float32 at 250.
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), targets @ [10, 30, 90, 250], atol=1e-3)
        if len(np.unique(images[0])) == 2:
            cut += 1
            np.testing.assert_allclose(targets[0, 3], (images[0, :, :, 0] == 250).mean(), atol=1e-6)
        elif targets[0, 0] < 1:
            blended += 1
            assert len(np.unique(images[0])) == 1
    # 200 batches: 30 are cut and 90 blended, with standard deviations of 5 and 7.
    assert 10 <= cut <= 50
    assert 60 <= blended <= 120


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_a_probability_leaves_batches_as_they_are(name):
    images = flat_images([10, 30, 90, 250])
    changed = [augmented(f"{name}:1:0.5", images, [number, 7]) for number in range(60)]
    untouched = [(pixels == images).all() for pixels, _ in changed]
    assert 0.2 < np.mean(untouched) < 0.8  # 60 draws: a standard deviation of 0.065
    for is_untouched, (_, targets) in zip(untouched, changed, strict=True):
        assert (targets.max(1) == 1).all() or not is_untouched
    always, never = (augmented(f"{name}:1:{probability}", images, [3, 7]) for probability in (1, 0))
    np.testing.assert_array_equal(always[0], augmented(f"{name}:1", images, [3, 7])[0])
    np.testing.assert_array_equal(never[0], images)


def test_flip_mirrors_every_other_image():
    image = numbered(1)[0]
    images = np.repeat(image[None], 300, axis=0)
    flipped = random_flip(tf.constant(images), tf.constant([1, 2])).numpy()
    is_mirror = (flipped == image[:, ::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(flipped[~is_mirror], images[~is_mirror])
    assert 0.38 < is_mirror.mean() < 0.62  # 300 draws: a standard deviation of 0.03


def test_erasing_fills_one_rectangle_of_the_papers_sizes():
    images = tf.fill([400, 40, 50, 3], tf.constant(255, tf.uint8))
    erased = random_erasing(images, tf.constant([5, 6]), probability=0.5).numpy()
    assert erased.dtype == np.uint8
    changed = (erased != 255).any(axis=-1)  # all three channels stay white with 6e-8
    which = changed.any(axis=(1, 2))
    assert 0.4 < which.mean() < 0.6  # 400 draws: a standard deviation of 0.025
    areas, aspects = [], []
    for mask in changed[which]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() == height * width
        areas.append(height * width / 2000)
        aspects.append(height / width)
    # Rounded sides of at least 4 pixels are off by an eighth at most.
    assert 0.015 < min(areas) < 0.05
    assert 0.3 < max(areas) < 0.45
    assert 0.25 < min(aspects) < 0.5
    assert 2 < max(aspects) < 3.8
    noise = erased[changed]
    assert abs(noise.mean() - 127.5) < 2
    np.testing.assert_array_equal(random_erasing(images, tf.constant([5, 6]), probability=0.0), images)


def test_steps_compose_in_order_and_the_first_keeps_its_seed():
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    cropped, _ = augmented("crop_flip", images, [8, 9])
    both, targets = augmented("crop_flip,mixup:1", images, [8, 9])
    share = targets[0, 0]
    np.testing.assert_allclose(both, share * cropped + (1 - share) * cropped[::-1], atol=1e-3)  # float32 at 255
    named, _ = augmented("crop_flip, mixup:alpha=1.0", images, [8, 9])
    np.testing.assert_array_equal(both, named)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cropflip", "'cropflip'. Closest: 'crop_flip'"),
        ("crop,mixp", "'mixp'. Closest: 'mixup'"),
        ("", "unknown augmentation ''|Unknown augmentation ''"),
        ("mixup:0", "alpha of the augmentation mixup must be a number from 0.01 to 100, got '0'"),
        ("mixup:nan", "got 'nan'"),
        ("mixup:much", "got 'much'"),
        ("mixup:beta=1", "'beta'"),
        ("mixup:1:1:1", "takes at most 2 .alpha, probability. options, got 3"),
        ("randaugment:1.5", "operations of the augmentation randaugment must be a whole number from 1 to 10"),
        ("randaugment:2:31", "whole number from 0 to 30"),
        ("color_jitter:-1", "brightness .* from 0 to 10"),
        ("crop:3", "takes none"),
        ("inception_crop_flip:0.5", "antialias .* whole number from 0 to 1"),
        ("erase:1.5", "probability of the augmentation erase must be a number from 0 to 1"),
        ("crop,inception_crop_flip", "inception_crop_flip .* must come first"),
    ],
)
def test_a_wrong_augmentation_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse_augmentation(text)


def test_a_random_rectangle_has_the_area_and_proportions_it_should():
    """The image is its own coordinates, so that the crop's corners can be read from its pixels (nearest
    neighbour, at 64 pixels: off by up to a sixty-fourth of the crop at either end).
    """
    height, width = 240, 320
    rows, columns = np.indices((height, width)).astype(np.float32)
    image = tf.constant(np.stack([rows, columns, rows], axis=-1))
    settings = Preprocessing(64, 64, 3, (0.5,) * 3, (0.5,) * 3, interpolation="nearest")
    augment = parse_augmentation("inception_crop_flip")
    crop = tf.function(lambda seed: augment.change_image(image, seed, settings))
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
    # Even over 0.08..1, but fewer of the largest rectangles fit: 0.434 in a simulation of the rule with NumPy. The
    # standard deviation of 300 draws is 0.0125; the bound is four of them.
    assert abs(np.mean(areas) - 0.434) < 0.05
    assert 0.7 < min(aspects) < 0.85
    assert 1.2 < max(aspects) < 1.43
    assert 0.38 < np.mean(flipped) < 0.62  # 300 draws: a standard deviation of 0.03


@pytest.mark.parametrize("policy", [name for name, step in AUGMENTATIONS.items() if step.in_8_bits])
def test_images_that_are_rounded_one_by_one_are_those_that_the_batch_would_round(policy):
    photo = tf.constant(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    seed, labels = tf.constant([3, 4]), tf.constant([0])
    early = parse_augmentation(f"inception_crop_flip,{policy}")
    late = dataclasses.replace(early, in_8_bits=False)
    one_by_one, in_the_batch = (augment.change_image(photo, seed, SETTINGS) for augment in (early, late))
    assert (one_by_one.dtype, in_the_batch.dtype) == (tf.uint8, tf.float32)
    expected, got = (
        early.change_batch(image[tf.newaxis], labels, seed)[0].numpy() for image in (in_the_batch, one_by_one)
    )
    np.testing.assert_array_equal(got, expected)
    # A step before the policy sees the pixels as they are.
    assert not parse_augmentation(f"inception_crop_flip,erase,{policy}").in_8_bits


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos3"])
def test_without_antialiasing_a_crop_is_what_the_plain_operator_makes_of_it(interpolation):
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    settings = Preprocessing(24, 24, 3, (0.5,) * 3, (0.5,) * 3, interpolation=interpolation)
    smooth, plain = (parse_augmentation(f"inception_crop_flip:{antialias}") for antialias in (1, 0))
    seeds = [tf.constant([number, 0]) for number in range(12)]
    crops = []
    for seed in seeds:
        top, left, height, width = smooth.rectangle(90, 120, seed).numpy()
        crop = image[top : top + height, left : left + width]
        mirrored = tf.reverse(crop, [1])
        result = plain.change_image(image, seed, settings)
        assert result.dtype == tf.float32
        assert np.min(result) >= 0.0
        assert np.max(result) <= 255.0
        # At most two float32 roundings at 255: the operator may add in a different order.
        either = [tf.cast(tf.image.resize(part, (24, 24), interpolation), tf.float32) for part in (crop, mirrored)]
        assert min(np.abs(result - np.clip(one, 0, 255)).max() for one in either) < 1e-4
        crops.append(np.abs(result - smooth.change_image(image, seed, settings)).max())
    # Smoothing changes a crop that shrinks, except where each pixel is just the nearest one.
    assert (max(crops) > 10) == (interpolation != "nearest")


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (300, 1, 3), (2, 3, 3)])
def test_an_extreme_image_still_gives_a_crop(shape):
    image = tf.fill(shape, 77.0)
    for number in range(5):
        result = parse_augmentation("inception_crop_flip").change_image(image, tf.constant([number, 0]), SETTINGS)
        np.testing.assert_allclose(result, np.full((32, 32, 3), 77.0), rtol=1e-5)
