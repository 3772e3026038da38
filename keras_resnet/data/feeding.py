"""What training, evaluation and explanation ask of the data: answered by TensorFlow, or by NumPy where it is missing.

The one place where that is decided. Both give the same numbers; TensorFlow knows more augmentations and is faster with
photographs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_resnet.backends import has_tensorflow
from keras_resnet.data.images import decode_with_pillow
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.splits import Split


def training_batches(split: Split, preprocessing: Preprocessing, **options: Any) -> Any:
    """Builds the stream of training batches: a `tf.data.Dataset`, or `array_batches.Batches`.

    Args:
        split: The training examples.
        preprocessing: The network's input.
        **options: Of `batches.training_batches`.
    """
    return _batches().training_batches(split, preprocessing, **options)


def evaluation_batches(split: Split, preprocessing: Preprocessing, *, batch_size: int) -> Any:
    """Builds the stream of every example of a split, of the same kind as `training_batches`."""
    return _batches().evaluation_batches(split, preprocessing, batch_size=batch_size)


def check_augmentation(text: str) -> None:
    """Raises the UserError for an augmentation that is unknown, or needs TensorFlow where that is missing."""
    if has_tensorflow():
        from keras_resnet.data.augmentation import parse_augmentation
    else:
        from keras_resnet.data.array_batches import parse_augmentation
    parse_augmentation(text)


def examples_at(
    split: Split, preprocessing: Preprocessing, positions: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Reads some examples; see `reading.examples_at`."""
    if has_tensorflow():
        from keras_resnet.data import reading
    else:
        from keras_resnet.data import array_batches as reading
    return reading.examples_at(split, preprocessing, positions)


def file_reader(preprocessing: Preprocessing) -> Callable[[bytes, str], np.ndarray]:
    """Returns a function from an image file's bytes to the network's size; see `reading.file_reader`."""
    if has_tensorflow():
        from keras_resnet.data.reading import file_reader as of_tensorflow

        return of_tensorflow(preprocessing)
    return lambda contents, name: resize_image(
        decode_with_pillow(contents, preprocessing.channels, name=name), preprocessing
    )


def resize_image(images: Any, preprocessing: Preprocessing) -> np.ndarray:
    """Brings images to the network's size and channels, float32 0..255; see `transforms.resize_image`."""
    return np.asarray(_transforms().resize_image(images, preprocessing))


def normalize(images: Any, preprocessing: Preprocessing) -> np.ndarray:
    """Turns pixels into network input, float32; see `transforms.normalize`."""
    return np.asarray(_transforms().normalize(images, preprocessing))


def preprocess(images: Any, preprocessing: Preprocessing) -> np.ndarray:
    """Resizes and normalizes; see `transforms.preprocess`."""
    return np.asarray(_transforms().preprocess(images, preprocessing))


def _batches() -> Any:
    if has_tensorflow():
        from keras_resnet.data import batches
    else:
        from keras_resnet.data import array_batches as batches
    return batches


def _transforms() -> Any:
    if has_tensorflow():
        from keras_resnet.data import transforms
    else:
        from keras_resnet.data import array_transforms as transforms
    return transforms
