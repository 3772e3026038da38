"""Random changes to training images: a table of steps, which compose by name ("crop_flip,mixup:0.2").

Evaluation and serving never come here. Every choice is stateless: it depends on the seed that is passed, so that a
resumed run draws what an uninterrupted one would have drawn.

A step changes single images at their own size and brings them to the network's size, or it changes whole batches at
that size, which is many times faster where all images of a batch take the same steps. Steps that mix images mix their
labels too: the targets are then the probabilities of the classes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from keras_resnet.data.augmentation_policies import (
    CIFAR_POLICIES,
    IMAGENET_POLICIES,
    aug_mix,
    auto_augment,
    color_jitter,
    increasing_rand_augment,
    pca_noise,
    rand_augment,
    trivial_augment,
)
from keras_resnet.data.augmentation_steps import (
    cutmix,
    mixup,
    mixup_cutmix,
    random_crop,
    random_erasing,
    random_flip,
    random_rectangle,
    resize_and_flip,
)
from keras_resnet.data.decoding import cut_out
from keras_resnet.data.image_operations import in_8_bits
from keras_resnet.data.order import ALGORITHM
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import resize_image
from keras_resnet.errors import UserError, unknown_name


class Option(NamedTuple):
    """A number that a step takes: its default, the range that it must lie in, and whether it must be whole."""

    default: float
    minimum: float
    maximum: float
    is_whole: bool = False


_PROBABILITY = Option(1.0, 0.0, 1.0)
_OPERATIONS = Option(2, 1, 10, is_whole=True)


@dataclass(frozen=True)
class Step:
    """One row of the table.

    Attributes:
        summary: What it does, in one line.
        rectangle: (height, width, seed int32 [2]) → the part of an image that is used, int32 [4]: top, left, height and
            width; None where that is the whole image.
        image: (part [h, w, c] 0..255, the same seed, preprocessing) → float32 image at the network's size, 0..255; None
            where images are only resized.
        batch: (images [N, height, width, channels] 0..255, targets, seed int32 [2], **options) → images and targets of
            the same shapes; None where nothing is left to do.
        options: Name → what it may be, in the order in which values without a name are read.
        mixes_targets: Whether `batch` changes the targets, which are then float32 [N, classes].
        in_8_bits: Whether `batch` begins by rounding the images to 8 bits.
    """

    summary: str
    rectangle: Callable[..., tf.Tensor] | None = None
    image: Callable[..., tf.Tensor] | None = None
    batch: Callable[..., tuple[tf.Tensor, tf.Tensor]] | None = None
    options: dict[str, Option] = dataclasses.field(default_factory=dict)
    mixes_targets: bool = False
    in_8_bits: bool = False


@dataclass(frozen=True)
class Augmentation:
    """Steps in their order, each with its options.

    Attributes:
        rectangle: As in `Step`; None where whole images are used.
        image: As in `Step`; None where images are only resized.
        batch: The steps that change batches.
        mixes_targets: Whether the targets become float32 [N, classes].
        in_8_bits: Whether images are rounded to 8 bits as soon as they have the network's size. The first batch step
            would do that; an image that has just been resized is still in the processor's cache.
    """

    rectangle: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor] | None
    image: Callable[[tf.Tensor, tf.Tensor, Preprocessing], tf.Tensor] | None
    batch: tuple[Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]], ...]
    mixes_targets: bool
    in_8_bits: bool = False

    def change_image(self, image: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
        """Brings an image of any size to the network's size.

        Args:
            image: [h, w, 1 or 3], uint8 or float, 0..255.
            seed: int32 [2].
            preprocessing: The network's input.

        Returns:
            [height, width, channels], 0..255: uint8 where `in_8_bits`, else float32.
        """
        if self.rectangle is not None:
            image = cut_out(image, lambda height, width: self.rectangle(height, width, seed))
        return self.change_part(image, seed, preprocessing)

    def change_part(self, part: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
        """Brings the part of an image that `rectangle` chose by the same seed to the network's size; see
        `change_image`.
        """
        image = resize_image(part, preprocessing) if self.image is None else self.image(part, seed, preprocessing)
        return in_8_bits(image) if self.in_8_bits else image

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
            step_seed = tf.random.fold_in(seed, number, alg=ALGORITHM) if number else seed
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
    rectangle, image, batch, mixes_targets, rounds = None, None, [], False, False
    for number, part in enumerate(text.split(",")):
        name, *values = part.strip().split(":")
        if name not in AUGMENTATIONS:
            raise unknown_name("augmentation", name, AUGMENTATIONS)
        step, options = AUGMENTATIONS[name], _parse_options(name, values)
        if step.image is not None:
            if number:
                raise UserError(f"{name} brings images to the network's size, so it must come first, got {text!r}.")
            rectangle, image = step.rectangle, functools.partial(step.image, **options)
        if step.batch is not None:
            rounds |= step.in_8_bits and not batch
            batch.append(functools.partial(step.batch, **options))
        mixes_targets |= step.mixes_targets
    return Augmentation(rectangle, image, tuple(batch), mixes_targets, rounds)


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
        if not rule.minimum <= number <= rule.maximum or (rule.is_whole and number != int(number)):
            kind = "whole number" if rule.is_whole else "number"
            raise UserError(
                f"The option {option} of the augmentation {name} must be a {kind} from {rule.minimum:g} to "
                f"{rule.maximum:g}, got {value!r}."
            )
        options[option] = number
    return options


def _of_images(change: Callable[..., tf.Tensor]) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """A batch step of (images, seed, **options) → images, which leaves the targets as they are."""
    return lambda images, targets, seed, **options: (change(images, seed, **options), targets)


AUGMENTATIONS: dict[str, Step] = {
    "none": Step("images as they are"),
    "crop": Step("shift by up to an eighth of the side", batch=_of_images(functools.partial(random_crop, flip=False))),
    "crop_flip": Step(
        "shift by up to an eighth of the side, mirror every other image",
        batch=_of_images(functools.partial(random_crop, flip=True)),
    ),
    "flip": Step("mirror every other image", batch=_of_images(random_flip)),
    "inception_crop_flip": Step(
        "random rectangle of 8 to 100 % of the area, mirror every other image; for photographs",
        rectangle=random_rectangle,
        image=resize_and_flip,
        options={"antialias": Option(1, 0, 1, is_whole=True)},
    ),
    "erase": Step(
        "fill a random rectangle with random pixels, in a part of the images",
        batch=_of_images(random_erasing),
        options={"probability": Option(0.5, 0.0, 1.0)},
    ),
    "mixup": Step(
        "blend each image and its label with another one",
        batch=mixup,
        options={"alpha": Option(0.2, 0.01, 100.0), "probability": _PROBABILITY},
        mixes_targets=True,
    ),
    "cutmix": Step(
        "paste a rectangle of another image, share the label by area",
        batch=cutmix,
        options={"alpha": Option(1.0, 0.01, 100.0), "probability": _PROBABILITY},
        mixes_targets=True,
    ),
    "mixup_cutmix": Step(
        "mixup or cutmix, one of them a batch",
        batch=mixup_cutmix,
        options={
            "mixup_alpha": Option(0.8, 0.01, 100.0),
            "cutmix_alpha": Option(1.0, 0.01, 100.0),
            "switch_probability": Option(0.5, 0.0, 1.0),
            "probability": _PROBABILITY,
        },
        mixes_targets=True,
    ),
    "randaugment": Step(
        "RandAugment: operations of 14 at one magnitude of 0 to 30",
        batch=_of_images(rand_augment),
        options={"operations": _OPERATIONS, "magnitude": Option(9, 0, 30, is_whole=True)},
        in_8_bits=True,
    ),
    "randaugment_increasing": Step(
        "timm's RandAugment: operations of 15, each in half of the images, at magnitudes around one of 0 to 10",
        batch=_of_images(increasing_rand_augment),
        options={"operations": _OPERATIONS, "magnitude": Option(9, 0, 10), "deviation": Option(0.5, 0, 10)},
        in_8_bits=True,
    ),
    "trivialaugment": Step(
        "TrivialAugment (wide): one operation of 14 at a random magnitude",
        batch=_of_images(trivial_augment),
        in_8_bits=True,
    ),
    "autoaugment_cifar": Step(
        "AutoAugment: one of 25 pairs of operations, learnt on CIFAR-10",
        batch=_of_images(functools.partial(auto_augment, policies=CIFAR_POLICIES)),
        in_8_bits=True,
    ),
    "autoaugment_imagenet": Step(
        "AutoAugment: one of 25 pairs of operations, learnt on ImageNet",
        batch=_of_images(functools.partial(auto_augment, policies=IMAGENET_POLICIES)),
        in_8_bits=True,
    ),
    "augmix": Step(
        "AugMix: a blend of the image with chains of operations on it",
        batch=_of_images(aug_mix),
        options={
            "severity": Option(3, 0.1, 10),
            "width": Option(3, 1, 10, is_whole=True),
            "alpha": Option(1, 0.01, 100),
        },
        in_8_bits=True,
    ),
    "color_jitter": Step(
        "random brightness, contrast and saturation, in random order",
        batch=_of_images(color_jitter),
        options={name: Option(0.4, 0, 10) for name in ("brightness", "contrast", "saturation")},
        in_8_bits=True,
    ),
    "pca_noise": Step(
        "random shift of the colour along ImageNet's principal components",
        batch=_of_images(pca_noise),
        options={"deviation": Option(0.1, 0, 10)},
    ),
}
