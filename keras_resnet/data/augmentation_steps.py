"""What the steps of an augmentation do to pixels: functions of (images, seed) alone.

References: K. He et al., "Deep Residual Learning for Image Recognition", section 4.2 (crop_flip); C. Szegedy et al.,
"Going Deeper with Convolutions", section 6 (inception_crop_flip); H. Zhang et al., "mixup: Beyond Empirical Risk
Minimization", arXiv:1710.09412 (mixup); Z. Zhong et al., "Random Erasing Data Augmentation", arXiv:1708.04896 (erase);
S. Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", arXiv:1905.04899
(cutmix); R. Wightman, timm (mixup_cutmix).
"""

import dataclasses
import math

import tensorflow as tf

from keras_resnet.data.order import ALGORITHM
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import resize_image

PADDING = 4  # pixels per side, for images of 32 × 32; other sizes get the same part, an eighth of the side

_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_ATTEMPTS = 10


def random_crop(images: tf.Tensor, seed: tf.Tensor, *, flip: bool) -> tf.Tensor:
    """Shifts each image of a batch by up to an eighth of its side, filling with black, and may mirror it.

    This is padding by 4 (at 32 × 32) followed by a random crop to the old size.

    Args:
        images: [N, height, width, channels], any numeric dtype.
        seed: int32 [2].
        flip: Whether images are mirrored, each with probability 1/2.

    Returns:
        Tensor of the same shape and dtype.
    """
    count = tf.shape(images)[0]
    height, width, channels = images.shape[1:]
    pad_y, pad_x = (max(1, side * PADDING // 32) for side in (height, width))
    seeds = tf.random.split(seed, 3, alg=ALGORITHM)

    def draw(which: int, limit: int) -> tf.Tensor:
        return tf.random.stateless_uniform([count, 1], seeds[which], 0, limit, tf.int32, alg=ALGORITHM)

    rows = tf.range(height) + draw(0, 2 * pad_y + 1)
    columns = tf.tile(tf.range(width)[tf.newaxis], [count, 1])
    if flip:
        columns = tf.where(draw(2, 2) == 1, width - 1 - columns, columns)
    columns += draw(1, 2 * pad_x + 1)
    padded = tf.pad(images, [[0, 0], [pad_y, pad_y], [pad_x, pad_x], [0, 0]])
    # One gather of pixels through flat positions: 9 µs an image of 32 × 32, a fourth of slicing image by image.
    full_height, full_width = height + 2 * pad_y, width + 2 * pad_x
    first = tf.range(count)[:, tf.newaxis, tf.newaxis] * (full_height * full_width)
    positions = first + rows[:, :, tf.newaxis] * full_width + columns[:, tf.newaxis, :]
    return tf.ensure_shape(tf.gather(tf.reshape(padded, [-1, channels]), positions), [None, height, width, channels])


def random_rectangle(height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws a rectangle in an image.

    The rectangle has 8 to 100 % of the image's area and proportions between 3:4 and 4:3 (drawn evenly in their
    logarithm), at the first of ten attempts that fits into the image; where none does, it is the largest centred
    rectangle within those proportions.

    Args:
        height: int32 scalar, the image's.
        width: int32 scalar.
        seed: int32 [2].

    Returns:
        int32 [4]: top, left, height and width.
    """
    full_height, full_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    draws = _rectangle_draws(seed)
    area = (_AREA[0] + (_AREA[1] - _AREA[0]) * draws[:_ATTEMPTS]) * full_height * full_width
    low, high = (math.log(value) for value in _ASPECT)
    aspect = tf.exp(low + (high - low) * draws[_ATTEMPTS : 2 * _ATTEMPTS])
    widths = tf.cast(tf.round(tf.sqrt(area * aspect)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(area / aspect)), tf.int32)
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    chosen = tf.argmax(tf.cast(fits, tf.int32), output_type=tf.int32)
    own_aspect = tf.clip_by_value(full_width / full_height, *_ASPECT)
    fallback_width = tf.minimum(tf.cast(tf.round(full_height * own_aspect), tf.int32), width)
    fallback_height = tf.minimum(tf.cast(tf.round(full_width / own_aspect), tf.int32), height)
    any_fits = tf.reduce_any(fits)
    crop_height = tf.where(any_fits, heights[chosen], tf.maximum(fallback_height, 1))
    crop_width = tf.where(any_fits, widths[chosen], tf.maximum(fallback_width, 1))
    draw_y, draw_x = draws[-3], draws[-2]

    def offset(draw: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
        return tf.minimum(tf.cast(draw * tf.cast(room + 1, tf.float32), tf.int32), room)

    top = tf.where(any_fits, offset(draw_y, height - crop_height), (height - crop_height) // 2)
    left = tf.where(any_fits, offset(draw_x, width - crop_width), (width - crop_width) // 2)
    return tf.stack([top, left, crop_height, crop_width])


def resize_and_flip(
    crop: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing, *, antialias: float = 1.0
) -> tf.Tensor:
    """Mirrors a rectangle with probability 1/2 and resizes it to the network's size.

    Args:
        crop: [height, width, 1 or 3], uint8 or float, 0..255.
        seed: int32 [2], that of the rectangle.
        preprocessing: The network's input.
        antialias: 1: a rectangle that shrinks is smoothed, as in evaluation. 0: only the pixels nearest to each output
            pixel count, which makes the whole input one and a half times as fast (docs/benchmarks.md).

    Returns:
        float32 tensor [preprocessing.height, preprocessing.width, preprocessing.channels], 0..255.
    """
    # Mirror first, while each value still has 8 bits.
    is_mirrored = tf.cast(_rectangle_draws(seed)[-1] < 0.5, tf.int32)
    crop = tf.reverse(crop, tf.range(1, 1 + is_mirrored))  # along no axis otherwise
    # A crop was already made: its whole area counts, whatever evaluation does.
    return resize_image(crop, dataclasses.replace(preprocessing, resize="squash"), antialias=bool(antialias))


def _rectangle_draws(seed: tf.Tensor) -> tf.Tensor:
    """Area and aspect of each attempt, then top, left and mirroring; float32, 0..1."""
    return tf.random.stateless_uniform([2 * _ATTEMPTS + 3], seed, alg=ALGORITHM)


def random_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors every other image of a batch, at random.

    Args:
        images: [N, height, width, channels], any dtype.
        seed: int32 [2].

    Returns:
        Tensor of the same shape and dtype.
    """
    draw = tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, 1], seed, alg=ALGORITHM)
    return tf.where(draw < 0.5, tf.reverse(images, [2]), images)


def random_erasing(images: tf.Tensor, seed: tf.Tensor, *, probability: float) -> tf.Tensor:
    """Fills a random rectangle of an image with random pixels.

    The rectangle has 2 to 40 % of the image's area and proportions between 0.3 and 3.3, at the first of ten attempts
    that fits into the image; where none does, the image stays as it is (arXiv:1708.04896, algorithm 1 and table 1).

    Args:
        images: [N, height, width, channels], 0..255, any numeric dtype.
        seed: int32 [2].
        probability: The part of the images that is changed, 0..1.

    Returns:
        Tensor of the same shape and dtype.
    """
    count = tf.shape(images)[0]
    height, width = images.shape[1:3]
    seeds = tf.random.split(seed, 3, alg=ALGORITHM)
    area, aspect = tf.unstack(tf.random.stateless_uniform([2, count, _ATTEMPTS], seeds[0], alg=ALGORITHM))
    area = (0.02 + 0.38 * area) * height * width
    low, high = math.log(0.3), math.log(3.3)
    aspect = tf.exp(low + (high - low) * aspect)
    heights, widths = tf.round(tf.sqrt(area * aspect)), tf.round(tf.sqrt(area / aspect))
    fits = (heights >= 1) & (widths >= 1) & (heights < height) & (widths < width)
    chosen = tf.argmax(tf.cast(fits, tf.int32), axis=1)
    heights, widths = (tf.gather(values, chosen, batch_dims=1) for values in (heights, widths))
    draws = tf.random.stateless_uniform([3, count], seeds[1], alg=ALGORITHM)
    is_changed = (draws[0] < probability) & tf.reduce_any(fits, axis=1)

    def inside(size: int, length: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
        first = tf.floor(draw * (size - length + 1.0))[:, tf.newaxis]
        places = tf.range(size, dtype=tf.float32)
        return (places >= first) & (places < first + length[:, tf.newaxis])

    rows, columns = inside(height, heights, draws[1]), inside(width, widths, draws[2])
    erased = rows[:, :, tf.newaxis] & columns[:, tf.newaxis] & is_changed[:, tf.newaxis, tf.newaxis]
    noise = tf.random.stateless_uniform(tf.shape(images), seeds[2], 0, 256, tf.int32, alg=ALGORITHM)
    return tf.where(erased[..., tf.newaxis], tf.cast(noise, images.dtype), images)


def mixup(
    images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, *, alpha: float, probability: float = 1.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blends each image and its target with those of another one of the batch: λ of the one, 1 - λ of the other.

    One λ ~ Beta(α, α) counts for a whole batch, as in the paper's code. The partners are the batch in reverse, which is
    a random choice because batches are.

    Args:
        images: [N, height, width, channels], any numeric dtype.
        targets: float32 [N, classes], each row a distribution.
        seed: int32 [2].
        alpha: α, above 0: the larger, the more even the blend.
        probability: The part of the batches that is changed, 0..1.

    Returns:
        (float32 images, targets) of the same shapes.
    """
    share = _share(seed, seed, alpha, probability)
    images = tf.cast(images, tf.float32)
    images = share * images + (1.0 - share) * tf.reverse(images, [0])
    return images, share * targets + (1.0 - share) * tf.reverse(targets, [0])


def cutmix(
    images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, *, alpha: float, probability: float = 1.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pastes a rectangle of another image of the batch into each image, and shares the targets by area.

    The rectangle has the image's proportions and (1 - λ) of its area, λ ~ Beta(α, α), and its centre is anywhere, so
    that the image's border may cut it; the targets count the pixels that are left of it. Rectangle and λ are one for a
    whole batch, and the partners the batch in reverse, as in the paper's code.

    Args:
        images: [N, height, width, channels], any numeric dtype.
        targets: float32 [N, classes], each row a distribution.
        seed: int32 [2].
        alpha: α, above 0; 1 draws λ evenly.
        probability: The part of the batches that is changed, 0..1.

    Returns:
        (images, targets) of the same shapes and dtypes.
    """
    height, width = images.shape[1:3]
    seeds = tf.random.split(seed, 2, alg=ALGORITHM)
    side = tf.sqrt(1.0 - _share(seed, seeds[0], alpha, probability))
    centre = tf.random.stateless_uniform([2], seeds[1], alg=ALGORITHM)

    def inside(size: int, draw: tf.Tensor) -> tf.Tensor:
        length = tf.cast(tf.cast(size, tf.float32) * side, tf.int32)
        first = tf.cast(draw * size, tf.int32) - length // 2
        return (tf.range(size) >= first) & (tf.range(size) < first + length)

    pasted = inside(height, centre[0])[:, tf.newaxis] & inside(width, centre[1])
    share = 1.0 - tf.reduce_mean(tf.cast(pasted, tf.float32))
    images = tf.where(pasted[tf.newaxis, :, :, tf.newaxis], tf.reverse(images, [0]), images)
    return images, share * targets + (1.0 - share) * tf.reverse(targets, [0])


def mixup_cutmix(
    images: tf.Tensor,
    targets: tf.Tensor,
    seed: tf.Tensor,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    switch_probability: float,
    probability: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes a batch by `cutmix` or by `mixup`.

    Args:
        images: [N, height, width, channels], any numeric dtype.
        targets: float32 [N, classes], each row a distribution.
        seed: int32 [2].
        mixup_alpha: α of mixup.
        cutmix_alpha: α of cutmix.
        switch_probability: The part of the batches whose images are cut, 0..1; the others are blended.
        probability: The part of the batches that is changed at all, 0..1.

    Returns:
        (float32 images, targets) of the same shapes.
    """
    seeds = tf.random.split(seed, 2, alg=ALGORITHM)
    images = tf.cast(images, tf.float32)
    return tf.cond(
        tf.random.stateless_uniform([], seeds[0], alg=ALGORITHM) < switch_probability,
        lambda: cutmix(images, targets, seeds[1], alpha=cutmix_alpha, probability=probability),
        lambda: mixup(images, targets, seeds[1], alpha=mixup_alpha, probability=probability),
    )


def _share(seed: tf.Tensor, beta_seed: tf.Tensor, alpha: float, probability: float) -> tf.Tensor:
    """λ of a batch: a draw of Beta(alpha, alpha), or 1 in a batch that is not changed."""
    share = _beta(beta_seed, alpha)
    if probability == 1.0:
        return share
    draw = tf.random.stateless_uniform([], tf.random.fold_in(seed, 1, alg=ALGORITHM), alg=ALGORITHM)
    return tf.where(draw < probability, share, 1.0)


def _beta(seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """A float32 number drawn from Beta(alpha, alpha)."""
    # In double precision, because draws of a small alpha are often below the smallest float32, and 0/0 is NaN.
    first, second = tf.unstack(tf.random.stateless_gamma([2], seed, tf.constant(alpha, tf.float64), dtype=tf.float64))
    return tf.cast(first / (first + second), tf.float32)
