"""Random changes to training images: a table of steps, which compose by name ("crop_flip,mixup:0.2").

Evaluation and serving never come here. Every choice is stateless: it depends on the seed that is passed, so that a
resumed run draws what an uninterrupted one would have drawn.

A step changes single images at their own size and brings them to the network's size, or it changes whole batches at
that size, which is many times faster where all images of a batch take the same steps. Steps that mix images mix their
labels too: the targets are then the probabilities of the classes.

References: K. He et al., "Deep Residual Learning for Image Recognition", section 4.2 (crop_flip); C. Szegedy et al.,
"Going Deeper with Convolutions", section 6 (inception_crop_flip); H. Zhang et al., "mixup: Beyond Empirical Risk
Minimization", arXiv:1710.09412 (mixup); S. Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers
with Localizable Features", arXiv:1905.04899 (cutmix).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import resize_image
from keras_resnet.errors import UserError, unknown_name

PADDING = 4  # pixels per side, for images of 32 × 32; other sizes get the same part, an eighth of the side

_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_ATTEMPTS = 10
_ALGORITHM = "philox"  # named, because the default differs between devices


class Option(NamedTuple):
    """A number that a step takes: its default, and the range that it must lie in."""

    default: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class Step:
    """One row of the table.

    Attributes:
        summary: What it does, in one line.
        image: (image [h, w, c] 0..255, seed int32 [2], preprocessing, **options) → float32 image at the network's size,
            0..255; None where images are only resized.
        batch: (images [N, height, width, channels] 0..255, targets, seed int32 [2], **options) → images and targets of
            the same shapes; None where nothing is left to do.
        options: Name → what it may be, in the order in which values without a name are read.
        mixes_targets: Whether `batch` changes the targets, which are then float32 [N, classes].
    """

    summary: str
    image: Callable[..., tf.Tensor] | None = None
    batch: Callable[..., tuple[tf.Tensor, tf.Tensor]] | None = None
    options: dict[str, Option] = dataclasses.field(default_factory=dict)
    mixes_targets: bool = False


@dataclass(frozen=True)
class Augmentation:
    """Steps in their order, each with its options.

    Attributes:
        image: (image, seed, preprocessing) → image at the network's size, as in `Step`; None where images are only
            resized.
        batch: The steps that change batches.
        mixes_targets: Whether the targets become float32 [N, classes].
    """

    image: Callable[[tf.Tensor, tf.Tensor, Preprocessing], tf.Tensor] | None
    batch: tuple[Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]], ...]
    mixes_targets: bool

    def change_image(self, image: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
        """Brings an image of any size to the network's size.

        Args:
            image: [h, w, 1 or 3], uint8 or float, 0..255.
            seed: int32 [2].
            preprocessing: The network's input.

        Returns:
            float32 [height, width, channels], 0..255.
        """
        if self.image is None:
            return resize_image(image, preprocessing)
        return self.image(image, seed, preprocessing)

    def change_batch(
        self, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, num_classes: int | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Changes a batch at the network's size.

        Args:
            images: [N, height, width, channels], 0..255.
            labels: int32 [N].
            seed: int32 [2].
            num_classes: How many classes there are; needed where the targets are mixed.

        Returns:
            (images, targets): images of the same shape, and the labels, or float32 [N, num_classes], each row a
            distribution, where `mixes_targets`.
        """
        targets = tf.one_hot(labels, num_classes) if self.mixes_targets else labels
        for number, step in enumerate(self.batch):
            step_seed = tf.random.fold_in(seed, number, alg=_ALGORITHM) if number else seed
            images, targets = step(images, targets, step_seed)
        return images, targets


def parse_augmentation(text: str) -> Augmentation:
    """Reads steps with their options: "crop_flip", "crop_flip,mixup:0.2", "crop,cutmix:alpha=1".

    Args:
        text: Names of `AUGMENTATIONS` in the order in which they act, separated by commas. Options follow a name behind
            colons, as VALUE or OPTION=VALUE.

    Returns:
        The augmentation.

    Raises:
        UserError: A name or an option is unknown, a value is out of range, or a step stands in a wrong place.
    """
    image, batch, mixes_targets = None, [], False
    for number, part in enumerate(text.split(",")):
        name, *values = part.strip().split(":")
        if name not in AUGMENTATIONS:
            raise unknown_name("augmentation", name, AUGMENTATIONS)
        step, options = AUGMENTATIONS[name], _parse_options(name, values)
        if step.image is not None:
            if number:
                raise UserError(f"{name} brings images to the network's size, so it must come first, got {text!r}.")
            image = functools.partial(step.image, **options)
        if step.batch is not None:
            batch.append(functools.partial(step.batch, **options))
        mixes_targets |= step.mixes_targets
    return Augmentation(image, tuple(batch), mixes_targets)


def _parse_options(name: str, values: list[str]) -> dict[str, float]:
    known = AUGMENTATIONS[name].options
    options = {option: rule.default for option, rule in known.items()}
    if len(values) > len(known):
        takes = f"at most {len(known)} ({', '.join(known)})" if known else "none"
        raise UserError(f"The augmentation {name} takes {takes} options, got {len(values)}. Leave out the others.")
    for position, text in enumerate(values):
        option, equals, value = text.partition("=")
        if not equals:
            option, value = list(known)[position], text
        if option not in known:
            raise unknown_name(f"option of the augmentation {name}:", option, known)
        rule = known[option]
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not rule.minimum <= number <= rule.maximum:
            raise UserError(
                f"The option {option} of the augmentation {name} must be a number from {rule.minimum:g} to "
                f"{rule.maximum:g}, got {value!r}."
            )
        options[option] = number
    return options


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
    seeds = tf.random.split(seed, 3, alg=_ALGORITHM)

    def draw(which: int, limit: int) -> tf.Tensor:
        return tf.random.stateless_uniform([count, 1], seeds[which], 0, limit, tf.int32, alg=_ALGORITHM)

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


def random_resized_crop(image: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Cuts out a random rectangle, brings it to the network's size and mirrors it with probability 1/2.

    The rectangle has 8 to 100 % of the image's area and proportions between 3:4 and 4:3 (drawn evenly in their
    logarithm), at the first of ten attempts that fits into the image; where none does, it is the largest centred
    rectangle within those proportions.

    Args:
        image: [height, width, 1 or 3], uint8 or float, 0..255.
        seed: int32 [2].
        preprocessing: The network's input.

    Returns:
        float32 tensor [preprocessing.height, preprocessing.width, preprocessing.channels], 0..255.
    """
    shape = tf.shape(image)
    height, width = shape[0], shape[1]
    full_height, full_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    draws = tf.random.stateless_uniform([2 * _ATTEMPTS + 3], seed, alg=_ALGORITHM)
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
    draw_y, draw_x, draw_flip = tf.unstack(draws[2 * _ATTEMPTS :])

    def offset(draw: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
        return tf.minimum(tf.cast(draw * tf.cast(room + 1, tf.float32), tf.int32), room)

    top = tf.where(any_fits, offset(draw_y, height - crop_height), (height - crop_height) // 2)
    left = tf.where(any_fits, offset(draw_x, width - crop_width), (width - crop_width) // 2)
    crop = image[top : top + crop_height, left : left + crop_width, :]
    crop = tf.ensure_shape(crop, [None, None, image.shape[-1]])
    squashed = _resize_to_network(crop, preprocessing)
    return tf.cond(draw_flip < 0.5, lambda: squashed[:, ::-1, :], lambda: squashed)


def _resize_to_network(crop: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    # A crop was already made: its whole area counts, whatever evaluation does.
    return resize_image(crop, dataclasses.replace(preprocessing, resize="squash"))


def mixup(images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, *, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Blends each image and its target with those of another one of the batch: λ of the one, 1 - λ of the other.

    One λ ~ Beta(α, α) counts for a whole batch, as in the paper's code. The partners are the batch in reverse, which is
    a random choice because batches are.

    Args:
        images: [N, height, width, channels], any numeric dtype.
        targets: float32 [N, classes], each row a distribution.
        seed: int32 [2].
        alpha: α, above 0: the larger, the more even the blend.

    Returns:
        (float32 images, targets) of the same shapes.
    """
    share = _beta(seed, alpha)
    images = tf.cast(images, tf.float32)
    images = share * images + (1.0 - share) * tf.reverse(images, [0])
    return images, share * targets + (1.0 - share) * tf.reverse(targets, [0])


def cutmix(images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, *, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Pastes a rectangle of another image of the batch into each image, and shares the targets by area.

    The rectangle has the image's proportions and (1 - λ) of its area, λ ~ Beta(α, α), and its centre is anywhere, so
    that the image's border may cut it; the targets count the pixels that are left of it. Rectangle and λ are one for a
    whole batch, and the partners the batch in reverse, as in the paper's code.

    Args:
        images: [N, height, width, channels], any numeric dtype.
        targets: float32 [N, classes], each row a distribution.
        seed: int32 [2].
        alpha: α, above 0; 1 draws λ evenly.

    Returns:
        (images, targets) of the same shapes and dtypes.
    """
    height, width = images.shape[1:3]
    seeds = tf.random.split(seed, 2, alg=_ALGORITHM)
    side = tf.sqrt(1.0 - _beta(seeds[0], alpha))
    centre = tf.random.stateless_uniform([2], seeds[1], alg=_ALGORITHM)

    def inside(size: int, draw: tf.Tensor) -> tf.Tensor:
        length = tf.cast(tf.cast(size, tf.float32) * side, tf.int32)
        first = tf.cast(draw * size, tf.int32) - length // 2
        return (tf.range(size) >= first) & (tf.range(size) < first + length)

    pasted = inside(height, centre[0])[:, tf.newaxis] & inside(width, centre[1])
    share = 1.0 - tf.reduce_mean(tf.cast(pasted, tf.float32))
    images = tf.where(pasted[tf.newaxis, :, :, tf.newaxis], tf.reverse(images, [0]), images)
    return images, share * targets + (1.0 - share) * tf.reverse(targets, [0])


def _beta(seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """A float32 number drawn from Beta(alpha, alpha)."""
    # In double precision, because draws of a small alpha are often below the smallest float32, and 0/0 is NaN.
    first, second = tf.unstack(tf.random.stateless_gamma([2], seed, tf.constant(alpha, tf.float64), dtype=tf.float64))
    return tf.cast(first / (first + second), tf.float32)


def _crop(images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return random_crop(images, seed, flip=False), targets


def _crop_flip(images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return random_crop(images, seed, flip=True), targets


AUGMENTATIONS: dict[str, Step] = {
    "none": Step("images as they are"),
    "crop": Step("shift by up to an eighth of the side", batch=_crop),
    "crop_flip": Step("shift by up to an eighth of the side, mirror every other image", batch=_crop_flip),
    "inception_crop_flip": Step(
        "random rectangle of 8 to 100 % of the area, mirror every other image; for photographs",
        image=random_resized_crop,
    ),
    "mixup": Step(
        "blend each image and its label with another one",
        batch=mixup,
        options={"alpha": Option(0.2, 0.01, 100.0)},
        mixes_targets=True,
    ),
    "cutmix": Step(
        "paste a rectangle of another image, share the label by area",
        batch=cutmix,
        options={"alpha": Option(1.0, 0.01, 100.0)},
        mixes_targets=True,
    ),
}
