"""Policies: random choices among the operations of `image_operations`, as tables, and what draws from them.

A policy draws for each image of a batch on its own, from the batch's seed alone. Images of other numbers than 0..255
in 8 bits are rounded to them first, as other libraries have them when they call Pillow.

References: E. Cubuk et al., "AutoAugment: Learning Augmentation Policies from Data", arXiv:1805.09501; the same,
"RandAugment: Practical automated data augmentation with a reduced search space", arXiv:1909.13719; S. Müller and F.
Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", arXiv:2103.10158; D. Hendrycks et al.,
"AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty", arXiv:1912.02781; R. Wightman et al.,
"ResNet strikes back", arXiv:2110.00476 (RandAugment whose every operation grows with the magnitude); A. Krizhevsky et
al., "ImageNet Classification with Deep Convolutional Neural Networks", section 4.1 (noise along the principal
components of colour). Ranges are those of torchvision, of timm for the increasing form, and of the authors' code for
AugMix.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_resnet.data.image_operations import apply_operations, in_8_bits
from keras_resnet.data.order import ALGORITHM


class Change(NamedTuple):
    """An operation of a policy, and its magnitude at a level from 0 to 1: start ± span · level.

    Attributes:
        operation: Name in `OPERATIONS`.
        start: Magnitude at level 0.
        span: What level 1 adds.
        signed: Whether the span is subtracted in every other image, at random.
        rounding: What happens to span · level: "" nothing, "nearest", or "down" (towards 0).
        per_side: Whether the span counts sides of the image (its width for x, its height for y), not pixels.
    """

    operation: str
    start: float = 0.0
    span: float = 0.0
    signed: bool = False
    rounding: str = ""
    per_side: bool = False


def _enhancements(span: float) -> tuple[Change, ...]:
    return tuple(Change(name, 1.0, span, signed=True) for name in ("brightness", "color", "contrast", "sharpness"))


def _shears(span: float) -> tuple[Change, ...]:
    return tuple(Change(name, 0.0, span, signed=True) for name in ("shear_x", "shear_y"))


def _shifts(span: float, rounding: str, *, per_side: bool) -> tuple[Change, ...]:
    return tuple(Change(name, 0.0, span, True, rounding, per_side) for name in ("translate_x", "translate_y"))


_STRETCHES = (Change("autocontrast"), Change("equalize"))

RAND_AUGMENT = (
    Change("identity"),
    *_shears(0.3),
    *_shifts(150 / 331, "down", per_side=True),
    Change("rotate", 0.0, 30.0, signed=True),
    *_enhancements(0.9),
    Change("posterize", 8.0, -4.0, rounding="nearest"),
    Change("solarize", 255.0, -255.0),
    *_STRETCHES,
)
AUTO_AUGMENT = (*RAND_AUGMENT, Change("invert"))
TRIVIAL_AUGMENT = (
    Change("identity"),
    *_shears(0.99),
    *_shifts(32.0, "down", per_side=False),
    Change("rotate", 0.0, 135.0, signed=True),
    *_enhancements(0.99),
    Change("posterize", 8.0, -6.0, rounding="nearest"),
    Change("solarize", 255.0, -255.0),
    *_STRETCHES,
)
INCREASING = (
    *_STRETCHES,
    Change("invert"),
    Change("rotate", 0.0, 30.0, signed=True),
    Change("posterize", 4.0, -4.0, rounding="down"),
    Change("solarize", 256.0, -256.0, rounding="down"),
    Change("solarize_add", 0.0, 110.0, rounding="down"),
    *_enhancements(0.9),
    *_shears(0.3),
    *_shifts(0.45, "", per_side=True),
)
AUG_MIX = (
    *_STRETCHES,
    Change("posterize", 4.0, -4.0, rounding="down"),
    Change("rotate", 0.0, 30.0, True, "down"),
    Change("solarize", 256.0, -256.0, rounding="down"),
    *_shears(0.3),
    *_shifts(1 / 3, "down", per_side=True),
)
_BINS = 31  # of torchvision's magnitudes: level 30 is the strongest
_INCREASING_PROBABILITY, _INCREASING_FILL, _HIGHEST_LEVEL = 0.5, 128, 10.0
_AUG_MIX_DEPTH, _AUG_MIX_LOWEST = 3, 0.1

# Two operations with the probability and the level, 0..9, of each; levels of those that have none are 0.
SubPolicy = tuple[tuple[str, float, int], tuple[str, float, int]]
CIFAR_POLICIES: tuple[SubPolicy, ...] = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 0)),
)
IMAGENET_POLICIES: tuple[SubPolicy, ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)

# Standard deviations and directions of ImageNet's colours, 0..1, in RGB.
_COLOR_DEVIATIONS = (0.2175, 0.0188, 0.0045)
_COLOR_DIRECTIONS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def rand_augment(images: tf.Tensor, seed: tf.Tensor, *, operations: float, magnitude: float) -> tf.Tensor:
    """Gives each image some operations one after the other, each drawn from 14, all at one magnitude.

    Args:
        images: [N, height, width, 1 or 3], 0..255, any numeric dtype.
        seed: int32 [2].
        operations: How many.
        magnitude: 0 to 30.

    Returns:
        uint8 tensor of the same shape.
    """
    images = in_8_bits(images)
    level = tf.fill([tf.shape(images)[0]], magnitude / (_BINS - 1))
    for number in range(int(operations)):
        images = _random_change(images, RAND_AUGMENT, level, tf.random.fold_in(seed, number, alg=ALGORITHM))
    return images


def trivial_augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Gives each image one operation of 14, at one of 31 magnitudes; returns uint8, see `rand_augment`."""
    images = in_8_bits(images)
    seeds = tf.random.split(seed, 2, alg=ALGORITHM)
    bins = _choices(tf.shape(images)[0], seeds[0], _BINS)
    return _random_change(images, TRIVIAL_AUGMENT, tf.cast(bins, tf.float32) / (_BINS - 1), seeds[1])


def auto_augment(images: tf.Tensor, seed: tf.Tensor, *, policies: Sequence[SubPolicy]) -> tf.Tensor:
    """Gives each image one of the learnt pairs of operations; returns uint8, see `rand_augment`.

    Each operation of the pair happens with its probability.
    """
    images = in_8_bits(images)
    count = tf.shape(images)[0]
    places = {change.operation: place for place, change in enumerate(AUTO_AUGMENT)}
    names, probabilities, levels = (np.array(part) for part in np.array(policies, object).transpose(2, 0, 1))
    operations = np.vectorize(places.get)(names).astype(np.int32)
    seeds = tf.random.split(seed, 2, alg=ALGORITHM)
    policy = _choices(count, seeds[0], len(policies))
    draws = tf.random.stateless_uniform([2, 2, count], seeds[1], alg=ALGORITHM)
    for number in range(2):
        happens = draws[0, number] < tf.gather(probabilities[:, number].astype(np.float32), policy)
        chosen = tf.where(happens, tf.gather(operations[:, number], policy), places["identity"])
        level = tf.gather(levels[:, number].astype(np.float32) / 9.0, policy)
        images = _change(images, AUTO_AUGMENT, chosen, level, draws[1, number] < 0.5)
    return images


def increasing_rand_augment(
    images: tf.Tensor, seed: tf.Tensor, *, operations: float, magnitude: float, deviation: float
) -> tf.Tensor:
    """Draws operations from 15, each of which happens with probability 1/2, at magnitudes from a normal distribution.

    Args:
        images: [N, height, width, 1 or 3], 0..255, any numeric dtype.
        seed: int32 [2].
        operations: How many are drawn for each image.
        magnitude: Mean of the magnitude, 0 to 10, beyond which nothing is drawn.
        deviation: Its standard deviation.

    Returns:
        uint8 tensor of the same shape; what comes from outside an image is mid-grey.
    """
    images = in_8_bits(images)
    count = tf.shape(images)[0]
    changes = (*INCREASING, Change("identity"))
    for number in range(int(operations)):
        seeds = tf.random.split(tf.random.fold_in(seed, number, alg=ALGORITHM), 3, alg=ALGORITHM)
        level = magnitude + deviation * tf.random.stateless_normal([count], seeds[0], alg=ALGORITHM)
        level = tf.clip_by_value(level, 0.0, _HIGHEST_LEVEL) / _HIGHEST_LEVEL
        draws = tf.random.stateless_uniform([2, count], seeds[1], alg=ALGORITHM)
        chosen = _choices(count, seeds[2], len(INCREASING))
        chosen = tf.where(draws[0] < _INCREASING_PROBABILITY, chosen, len(INCREASING))
        images = _change(images, changes, chosen, level, draws[1] < 0.5, fill=_INCREASING_FILL)
    return images


def aug_mix(images: tf.Tensor, seed: tf.Tensor, *, severity: float, width: float, alpha: float) -> tf.Tensor:
    """Blends each image with a mixture of itself after chains of one to three operations.

    Args:
        images: [N, height, width, 1 or 3], 0..255, any numeric dtype.
        seed: int32 [2].
        severity: The highest level of an operation, up to 10.
        width: How many chains.
        alpha: Of the Dirichlet distribution of the chains' shares, and the beta distribution of the mixture's.

    Returns:
        float32 tensor of the same shape.
    """
    images = in_8_bits(images)
    count, width = tf.shape(images)[0], int(width)
    seeds = tf.random.split(seed, 3 + _AUG_MIX_DEPTH, alg=ALGORITHM)
    chains, changes = tf.tile(images, [width, 1, 1, 1]), (*AUG_MIX, Change("identity"))
    depth = 1 + _choices(width * count, seeds[0], _AUG_MIX_DEPTH)
    for number in range(_AUG_MIX_DEPTH):
        own = tf.random.split(seeds[3 + number], 2, alg=ALGORITHM)
        draws = tf.random.stateless_uniform([2, width * count], own[0], alg=ALGORITHM)
        level = (_AUG_MIX_LOWEST + (severity - _AUG_MIX_LOWEST) * draws[0]) / _HIGHEST_LEVEL
        chosen = tf.where(depth > number, _choices(width * count, own[1], len(AUG_MIX)), len(AUG_MIX))
        chains = _change(chains, changes, chosen, level, draws[1] < 0.5)
    shares = _dirichlet(seeds[1], count, width, alpha)
    mixture = tf.zeros_like(images, tf.float32)
    for share, chain in zip(tf.unstack(shares, axis=1), tf.split(chains, width), strict=True):
        mixture += tf.reshape(share, [-1, 1, 1, 1]) * tf.cast(chain, tf.float32)
    kept = tf.reshape(_dirichlet(seeds[2], count, 2, alpha)[:, 0], [-1, 1, 1, 1])
    # A convex sum of float32 shares may leave 0..255 by a rounding.
    return tf.clip_by_value(kept * tf.cast(images, tf.float32) + (1.0 - kept) * mixture, 0.0, 255.0)


def color_jitter(
    images: tf.Tensor, seed: tf.Tensor, *, brightness: float, contrast: float, saturation: float
) -> tf.Tensor:
    """Changes brightness, contrast and saturation by random factors, in another order for each image.

    Args:
        images: [N, height, width, 1 or 3], 0..255, any numeric dtype.
        seed: int32 [2].
        brightness: x of the factors between max(0, 1 - x) and 1 + x.
        contrast: As brightness.
        saturation: As brightness.

    Returns:
        uint8 tensor of the same shape.
    """
    images = in_8_bits(images)
    draws = tf.random.stateless_uniform([2, tf.shape(images)[0], 3], seed, alg=ALGORITHM)
    spread = tf.constant([brightness, contrast, saturation], tf.float32)
    lowest = tf.maximum(1.0 - spread, 0.0)
    factors = lowest + (1.0 + spread - lowest) * draws[0]
    order = tf.argsort(draws[1], axis=1, stable=True)
    for number in range(3):
        chosen = order[:, number]
        factor = tf.gather(factors, chosen, batch_dims=1)
        images = apply_operations(images, ("brightness", "contrast", "color"), chosen, factor)
    return images


def pca_noise(images: tf.Tensor, seed: tf.Tensor, *, deviation: float) -> tf.Tensor:
    """Shifts the colour of each image along the principal components of ImageNet's colours.

    Args:
        images: [N, height, width, 1 or 3], 0..255, any numeric dtype.
        seed: int32 [2].
        deviation: Standard deviation of the shift, in standard deviations of ImageNet's colours.

    Returns:
        float32 tensor of the same shape, 0..255; grey images, which have no colour, stay.
    """
    images = tf.cast(images, tf.float32)
    if images.shape[-1] == 1:
        return images
    draws = deviation * tf.random.stateless_normal([tf.shape(images)[0], 3], seed, alg=ALGORITHM)
    components = np.array(_COLOR_DIRECTIONS) * _COLOR_DEVIATIONS * 255.0
    shift = tf.linalg.matmul(draws, components.T.astype(np.float32))
    return tf.clip_by_value(images + shift[:, tf.newaxis, tf.newaxis], 0.0, 255.0)


def magnitudes(
    changes: Sequence[Change], chosen: tf.Tensor, level: tf.Tensor, negative: tf.Tensor, size: tuple[int, int]
) -> tf.Tensor:
    """Computes the magnitude of each image's operation.

    Args:
        changes: The operations to choose from.
        chosen: int32 [n], positions in `changes`.
        level: float32 [n], 0..1.
        negative: bool [n], whether the span of a signed change is subtracted.
        size: Height and width of the images.

    Returns:
        float32 [n].
    """
    height, width = size
    sides = [{"translate_x": width, "translate_y": height}[c.operation] if c.per_side else 1 for c in changes]
    spans = [change.span * side for change, side in zip(changes, sides, strict=True)]
    span = tf.gather(tf.constant(spans, tf.float32), chosen) * level
    for rounding, rounded in (("nearest", tf.round(span)), ("down", tf.sign(span) * tf.floor(tf.abs(span)))):
        span = tf.where(tf.gather([change.rounding == rounding for change in changes], chosen), rounded, span)
    negative = negative & tf.gather([change.signed for change in changes], chosen)
    return tf.gather([change.start for change in changes], chosen) + tf.where(negative, -span, span)


def _change(
    images: tf.Tensor,
    changes: Sequence[Change],
    chosen: tf.Tensor,
    level: tf.Tensor,
    negative: tf.Tensor,
    *,
    fill: int = 0,
) -> tf.Tensor:
    magnitude = magnitudes(changes, chosen, level, negative, tuple(images.shape[1:3]))
    return apply_operations(images, [change.operation for change in changes], chosen, magnitude, fill=fill)


def _random_change(images: tf.Tensor, changes: Sequence[Change], level: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    count = tf.shape(images)[0]
    seeds = tf.random.split(seed, 2, alg=ALGORITHM)
    negative = tf.random.stateless_uniform([count], seeds[1], alg=ALGORITHM) < 0.5
    return _change(images, changes, _choices(count, seeds[0], len(changes)), level, negative)


def _choices(count: tf.Tensor, seed: tf.Tensor, limit: int) -> tf.Tensor:
    return tf.random.stateless_uniform([count], seed, 0, limit, tf.int32, alg=ALGORITHM)


def _dirichlet(seed: tf.Tensor, count: tf.Tensor, size: int, alpha: float) -> tf.Tensor:
    """float32 [count, size], rows of sum 1."""
    # In double precision, because draws of a small alpha are often below the smallest float32, and 0/0 is NaN.
    draws = tf.random.stateless_gamma([count, size], seed, tf.constant(alpha, tf.float64), dtype=tf.float64)
    return tf.cast(draws / tf.reduce_sum(draws, axis=1, keepdims=True), tf.float32)
