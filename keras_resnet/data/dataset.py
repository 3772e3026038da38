"""What every source yields: a `DatasetSpec` of three splits, with what is known of their pixels.

This module imports neither TensorFlow nor Pillow.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.splits import ArraySplit, Split, hold_out, joined, require_examples
from keras_resnet.errors import UserError

# Channel statistics of ImageNet's training images, the usual choice for photographs.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Images of one size up to this side keep it; everything else is a photograph and goes to the network at 224 × 224.
SMALL_SIDE = 64
PHOTOGRAPH_SIDE = 224

# Numbered classes of labels without names: more than any published set has (ImageNet-21k: 21,841).
MAX_CLASSES = 100_000


@dataclass(frozen=True, eq=False)
class DatasetSpec:
    """A data set, ready for the pipeline.

    Attributes:
        name: How it was asked for, for example "digits" or "folder:flowers".
        labels: The class names in the order of the labels' numbers.
        image_shape: (height, width, channels), the default network input.
        train: The examples to learn from.
        validation: The examples to choose by; none of them is in `train` or `test`.
        test: The examples to report on.
        augmentation: Name of the default augmentation.
        mean: Mean of each channel, pixels scaled to 0..1.
        std: Standard deviation of each channel, pixels scaled to 0..1.
        fingerprint: SHA-256 in hexadecimal digits: equal for equal contents, wherever they lie.
        bad_images: How many unreadable images were left out, class → count; empty when none was.
    """

    name: str
    labels: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train: Split
    validation: Split
    test: Split
    augmentation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    bad_images: dict[str, int] = field(default_factory=dict)

    def has_classes(self, labels: Sequence[str]) -> bool:
        """Whether a model with these class names speaks of this data set's classes, in the same order.

        Where either side has its classes numbered for want of names, only their number counts.
        """
        numbered = tuple(str(number) for number in range(len(self.labels)))
        labels = tuple(labels)
        return len(labels) == len(self.labels) and (labels == self.labels or numbered in (labels, self.labels))

    def preprocessing(self, **changes: Any) -> Preprocessing:
        """Builds the data set's default preprocessing.

        Args:
            **changes: Fields of `Preprocessing` to set otherwise, for example `resize="crop"`.

        Returns:
            The settings, with this data set's input shape, statistics and labels.
        """
        height, width, channels = self.image_shape
        settings = Preprocessing(height, width, channels, self.mean, self.std, labels=self.labels)
        return dataclasses.replace(settings, **changes)

    def with_validation(self, fraction: float) -> "DatasetSpec":
        """Cuts training and validation images anew; the test stays as it is.

        Args:
            fraction: The part of each class's training and validation images together that becomes validation, 0..1.

        Raises:
            UserError: The examples are a stream of records, or too few.
        """
        train, test = joined(self.train, self.validation), self.test
        kept, held_out = hold_out(train.labels, fraction)
        require_examples(held_out, "validation", "two training images of a class")
        return dataclasses.replace(self, train=train.part(kept), validation=train.part(held_out), test=test)

    @classmethod
    def from_arrays(
        cls,
        x_train: np.ndarray,
        y_train: np.ndarray,
        x_test: np.ndarray,
        y_test: np.ndarray,
        *,
        x_validation: np.ndarray | None = None,
        y_validation: np.ndarray | None = None,
        labels: Sequence[str] | None = None,
        image_size: int | None = None,
        augmentation: str | None = None,
        name: str = "arrays",
    ) -> "DatasetSpec":
        """Builds a data set from arrays in memory.

        Args:
            x_train: uint8 [N, height, width, channels] or [N, height, width] (grey), 0..255, RGB.
            y_train: Whole numbers [N] or [N, 1], 0..classes-1.
            x_test: As x_train.
            y_test: As y_train.
            x_validation: As x_train; without it every tenth training image of each class is set aside, always the same.
            y_validation: As y_train.
            labels: Class names; "0", "1", … without them.
            image_size: Side of the network input; the images' own size without it.
            augmentation: Name of the default augmentation; chosen by the images' size without it.
            name: The data set's name.

        Returns:
            The data set.

        Raises:
            UserError: The arrays do not fit together.
        """
        train = _array_split("train", x_train, y_train)
        test = _array_split("test", x_test, y_test)
        if (x_validation is None) != (y_validation is None):
            raise UserError("x_validation and y_validation come together, got only one of them.")
        if x_validation is not None:
            validation = _array_split("validation", x_validation, y_validation)
        else:
            rest, held_out = hold_out(train.labels, 0.1)
            require_examples(held_out, "validation", "two training images of a class")
            validation = ArraySplit(train.images[held_out], train.labels[held_out])
            train = ArraySplit(train.images[rest], train.labels[rest])
        shapes = {split.images.shape[1:] for split in (train, validation, test)}
        if len(shapes) > 1:
            raise UserError(f"The images of every split must have one shape, got {sorted(shapes)}.")
        highest = max(int(split.labels.max()) for split in (train, validation, test))
        if labels is None:
            labels = [str(number) for number in range(highest + 1)]
        if highest >= len(labels):
            raise UserError(
                f"A label is the number of a class name, 0..{len(labels) - 1}, got {highest}. "
                "Give one class name for every number."
            )
        if len(labels) < 2:
            raise UserError(f"Telling classes apart needs at least two of them, {name} has {len(labels)}.")
        height, width, channels = shapes.pop()
        if image_size is not None:
            height = width = image_size
        mean, std = channel_statistics(train.images)
        return cls(
            name=name,
            labels=tuple(str(label) for label in labels),
            image_shape=(height, width, channels),
            train=train,
            validation=validation,
            test=test,
            augmentation=augmentation or default_augmentation((height, width, channels)),
            mean=mean,
            std=std,
            fingerprint=arrays_fingerprint(labels, train, validation, test),
        )


def default_augmentation(image_shape: tuple[int, int, int]) -> str:
    """Names the usual augmentation for images of a shape: photographs, small colour images, or grey ones.

    Grey images are most often writing, which a mirror image spoils.
    """
    height, width, channels = image_shape
    if max(height, width) > SMALL_SIDE:
        return "inception_crop_flip"
    return "crop" if channels == 1 else "crop_flip"


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Computes mean and standard deviation of each channel, exactly, from the pixels' histogram.

    Args:
        images: uint8 [..., channels], 0..255.

    Returns:
        (mean, std), one float a channel, for pixels scaled to 0..1 and rounded to six digits; a channel of one single
        value has a std of 1, so that normalization stays finite.
    """
    pixels = images.reshape(-1, images.shape[-1])
    values = np.arange(256) / 255.0
    means, stds = [], []
    for channel in range(pixels.shape[-1]):
        counts = np.bincount(pixels[:, channel], minlength=256)
        mean = (counts @ values) / counts.sum()
        deviation = np.sqrt((counts @ (values - mean) ** 2) / counts.sum())
        means.append(round(float(mean), 6))
        stds.append(round(float(deviation), 6) or 1.0)
    return tuple(means), tuple(stds)


def arrays_fingerprint(labels: Sequence[str], *splits: ArraySplit) -> str:
    """Returns the SHA-256 of class names, images and labels, in hexadecimal digits."""
    digest = hashlib.sha256("\0".join(labels).encode())
    for split in splits:
        digest.update(repr(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images))
        digest.update(np.ascontiguousarray(split.labels, dtype="<i4"))
    return digest.hexdigest()


def _array_split(name: str, images: Any, labels: Any) -> ArraySplit:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(
            f"x_{name} must be uint8 pixels 0..255 of shape [images, height, width, 1 or 3], "
            f"got {images.dtype} {list(images.shape)}."
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"y_{name} must be whole numbers of shape [images], got {labels.dtype} {list(labels.shape)}.")
    if len(images) != len(labels):
        raise UserError(f"x_{name} and y_{name} must be equally long, got {len(images)} and {len(labels)}.")
    if len(labels) == 0:
        raise UserError(f"x_{name} holds no image. Every split needs at least one.")
    if labels.min() < 0:
        raise UserError(f"y_{name} must count classes from 0, got {labels.min()}.")
    if labels.max() >= MAX_CLASSES:  # before the labels become 32-bit numbers and a list of names
        raise UserError(f"y_{name} must count classes from 0 to at most {MAX_CLASSES - 1:,}, got {labels.max()}.")
    return ArraySplit(images, labels.astype(np.int32))
