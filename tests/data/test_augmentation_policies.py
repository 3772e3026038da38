"""Policies: their published tables, and what they draw from them."""

import collections
import hashlib

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.data import augmentation_policies as policies
from keras_resnet.data.augmentation import parse_augmentation
from keras_resnet.data.image_operations import apply_operations
from keras_resnet.data.preprocessing import Preprocessing

SETTINGS = Preprocessing(32, 32, 3, (0.5,) * 3, (0.5,) * 3)
COUNT = 2000
SIZE = (12, 20)


@pytest.fixture
def drawn(monkeypatch):
    """What a policy draws for 2,000 images: (augmentation) → per round, (operation, magnitude) of each image."""
    rounds = []

    def record(images, names, chosen, magnitude, *, fill=0):
        rounds.append([(names[which], value) for which, value in zip(chosen.numpy(), magnitude.numpy(), strict=True)])
        return images

    def draw(text):
        rounds.clear()
        monkeypatch.setattr(policies, "apply_operations", record)
        images = tf.zeros([COUNT, *SIZE, 3], tf.uint8)
        changed, _ = parse_augmentation(text).change_batch(images, tf.zeros([COUNT], tf.int32), tf.constant([3, 4]))
        assert changed.shape == images.shape
        return list(rounds)

    return draw


def frequencies(changes):
    counts = collections.Counter(name for name, _ in changes)
    return {name: count / len(changes) for name, count in counts.items()}


def assert_even(changes, names, share=1.0):
    found = frequencies(changes)
    assert set(names) <= set(found)
    for name in names:
        expected = share / len(names)
        # Five standard deviations of a share of 2,000 draws: a right policy fails once in a million.
        assert abs(found[name] - expected) < 5 * (expected * (1 - expected) / len(changes)) ** 0.5, name


def values(changes, name):
    return {round(float(value), 4) for which, value in changes if which == name}


def test_randaugment_draws_torchvisions_operations_at_one_magnitude(drawn):
    rounds = drawn("randaugment:3:9")
    assert len(rounds) == 3
    assert rounds[0] != rounds[1]
    for changes in rounds:
        assert_even(changes, [change.operation for change in policies.RAND_AUGMENT])
        assert values(changes, "shear_x") == values(changes, "shear_y") == {-0.09, 0.09}
        assert values(changes, "translate_x") == {-2, 2}  # 150/331 of 20 pixels · 9/30 = 2.7, its fraction dropped
        assert values(changes, "translate_y") == {-1, 1}
        assert values(changes, "rotate") == {-9, 9}
        for name in ("brightness", "color", "contrast", "sharpness"):
            assert values(changes, name) == {0.73, 1.27}
        assert values(changes, "posterize") == {7}
        assert values(changes, "solarize") == {178.5}
    (strongest,) = drawn("randaugment:1:30")
    assert values(strongest, "posterize") == {4}
    assert values(strongest, "solarize") == {0}


def test_trivialaugment_draws_one_operation_at_each_of_31_magnitudes(drawn):
    (changes,) = drawn("trivialaugment")
    assert_even(changes, [change.operation for change in policies.TRIVIAL_AUGMENT])
    assert values(changes, "rotate") <= {round(sign * 135 * bin / 30, 4) for bin in range(31) for sign in (-1, 1)}
    assert len(values(changes, "rotate")) > 40  # of 61; some 140 draws reach 55 on average
    assert max(values(changes, "translate_x")) >= 30
    assert all(value == int(value) for value in values(changes, "translate_y"))
    assert values(changes, "posterize") == {2, 3, 4, 5, 6, 7, 8}
    assert 0 < min(values(changes, "color")) < 0.1
    assert 1.9 < max(values(changes, "color")) < 2


@pytest.mark.parametrize(
    ("name", "table"),
    [("autoaugment_cifar", policies.CIFAR_POLICIES), ("autoaugment_imagenet", policies.IMAGENET_POLICIES)],
)
def test_autoaugment_draws_pairs_of_its_table(drawn, name, table):
    assert len(table) == 25
    first, second = drawn(name)
    for number, changes in enumerate((first, second)):
        expected = collections.Counter()
        for pair in table:
            operation, probability, _ = pair[number]
            expected[operation] += probability / 25
            expected["identity"] += (1 - probability) / 25
        found = frequencies(changes)
        for operation, share in expected.items():
            # Five standard deviations of a share of 2,000 draws.
            assert abs(found.get(operation, 0) - share) <= 5 * (share * (1 - share) / COUNT) ** 0.5 + 1e-9, operation
    pairs = {(one[0], other[0]) for one, other in zip(first, second, strict=True)} - {("identity", "identity")}
    allowed = {(one, other) for pair in table for one in (pair[0][0], "identity") for other in (pair[1][0], "identity")}
    assert pairs <= allowed


@pytest.mark.parametrize(
    ("table", "digest"),
    [(policies.CIFAR_POLICIES, "6b4543f8fb4a1159"), (policies.IMAGENET_POLICIES, "d0d1eac19d32ba4d")],
)
def test_the_learnt_tables_are_the_published_ones(table, digest):
    """The digests are of torchvision's tables (autoaugment.py), its names written as ours and None as 0."""
    assert hashlib.sha256(repr(table).encode()).hexdigest()[:16] == digest


def test_the_increasing_form_skips_half_and_spreads_its_magnitudes(drawn):
    first, second = drawn("randaugment_increasing:2:7:0.5")
    names = [change.operation for change in policies.INCREASING]
    assert len(names) == 15
    for changes in (first, second):
        assert_even(changes, names, share=0.5)
        assert abs(frequencies(changes)["identity"] - 0.5) < 0.056  # five standard deviations
        degrees = np.abs([value for name, value in changes if name == "rotate"])
        # Level 7 of 10 is 21°, half a level 1.5°; some 66 draws have a standard error of 0.19 and 0.13.
        assert abs(degrees.mean() - 21) < 1
        assert abs(degrees.std() - 1.5) < 0.7
        assert values(changes, "posterize") <= {1, 2, 3}
        thresholds = [value for name, value in changes if name == "solarize"]
        assert abs(np.mean(thresholds) - (256 - 179)) < 8  # a standard error of 1.6
        assert all(value == int(value) for value in values(changes, "solarize_add"))
    (strongest,) = drawn("randaugment_increasing:1:10:0")
    assert values(strongest, "posterize") == {0}
    assert values(strongest, "translate_x") == {-9, 9}  # 0.45 of 20 pixels
    assert values(strongest, "brightness") == {0.1, 1.9}
    assert len({round(abs(value), 3) for name, value in drawn("randaugment_increasing")[0] if name == "rotate"}) > 20


def test_augmix_draws_chains_of_one_to_three_operations(drawn):
    rounds = drawn("augmix")
    assert [len(changes) for changes in rounds] == [3 * COUNT] * 3
    for number, changes in enumerate(rounds):
        names = [change.operation for change in policies.AUG_MIX]
        assert len(names) == 9
        assert_even(changes, names, share=1 - number / 3)
        assert all(abs(value) <= 9 for name, value in changes if name == "rotate")  # severity 3 of 10
        assert values(changes, "posterize") <= {3, 4}


def test_color_jitter_draws_even_factors_in_every_order(drawn):
    rounds = drawn("color_jitter:0.4:0.2:1.5")
    orders = collections.Counter(zip(*([name for name, _ in changes] for changes in rounds), strict=True))
    assert len(orders) == 6
    assert min(orders.values()) > 250  # 333 expected, a standard deviation of 17
    for name, low, high in (("brightness", 0.6, 1.4), ("contrast", 0.8, 1.2), ("color", 0.0, 2.5)):
        factors = np.array([value for changes in rounds for which, value in changes if which == name])
        assert len(factors) == COUNT
        assert low <= factors.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < factors.max() <= high
        assert abs(factors.mean() - (low + high) / 2) < 0.04 * (high - low)  # six standard errors


def test_a_policy_applies_what_it_draws(monkeypatch):
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (30, *SIZE, 3), np.uint8))
    expected = images

    def follow(before, names, chosen, magnitude, *, fill=0):
        nonlocal expected
        expected = apply_operations(expected, names, chosen, magnitude, fill=fill)
        return apply_operations(before, names, chosen, magnitude, fill=fill)

    monkeypatch.setattr(policies, "apply_operations", follow)
    changed = policies.rand_augment(images, tf.constant([1, 2]), operations=2, magnitude=9)
    np.testing.assert_array_equal(changed, expected)
    assert (changed.numpy() != images.numpy()).any(axis=(1, 2, 3)).mean() > 0.7


def test_augmix_is_a_convex_mixture():
    """Flat images stay flat under all but equal shares of what chains make of them; extremes bound the mixture."""
    values = np.array([0, 60, 200, 255], np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (4, 16, 16, 3))
    mixed = policies.aug_mix(tf.constant(images), tf.constant([5, 6]), severity=3, width=3, alpha=1).numpy()
    assert mixed.dtype == np.float32
    assert mixed.min() >= 0
    assert mixed.max() <= 255
    # With one chain of width and α so large that every share is 1/2, the image is half of itself.
    noise = tf.constant(np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), np.uint8))
    half = policies.aug_mix(noise, tf.constant([5, 6]), severity=3, width=1, alpha=1e6).numpy()
    chain = 2 * half - noise.numpy()
    # 1/2 is drawn within 0.003 (six standard deviations), so that the chain's pixels are found within 2.
    assert chain.min() > -2
    assert chain.max() < 257
    assert np.abs(chain - np.rint(chain)).mean() < 0.25


def test_pca_noise_shifts_each_image_by_imagenets_colours():
    images = tf.fill([COUNT, 2, 2, 3], 128.0)
    shifts = policies.pca_noise(images, tf.constant([1, 2]), deviation=0.1).numpy() - 128
    np.testing.assert_array_equal(shifts, np.broadcast_to(shifts[:, :1, :1], shifts.shape))
    found = np.cov(shifts[:, 0, 0].T)
    # The covariance's own spectrum: (25.5 · deviation)² of each component, within 5 standard errors of 2,000 draws.
    spectrum = np.linalg.eigvalsh(found)[::-1]
    np.testing.assert_allclose(spectrum, np.square(25.5 * np.array([0.2175, 0.0188, 0.0045])), rtol=0.16)
    grey = tf.fill([3, 2, 2, 1], 77.0)
    np.testing.assert_array_equal(policies.pca_noise(grey, tf.constant([1, 2]), deviation=1.0), grey)


POLICIES = ("randaugment", "randaugment_increasing", "trivialaugment", "autoaugment_cifar", "augmix", "color_jitter")


@pytest.mark.parametrize("name", POLICIES)
def test_grey_images_and_numbers_between_bytes_are_taken(name):
    """Images are rounded first: 0.3 above a byte changes nothing."""
    images = np.random.default_rng(0).integers(0, 255, (6, 10, 9, 1)).astype(np.float32)
    augment = parse_augmentation(name)

    def change(pixels):
        return augment.change_batch(tf.constant(pixels), tf.zeros([6], tf.int32), tf.constant([1, 2]))[0]

    changed = change(images.astype(np.uint8)).numpy()
    assert changed.shape == images.shape
    np.testing.assert_array_equal(change(images + 0.3), changed)
