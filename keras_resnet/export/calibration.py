"""The images that integer quantisation measures its ranges on, and what must not be wrong with them.

A calibration set that was not prepared like the input raises nothing in any quantiser and ruins the network.
"""

from collections.abc import Sequence

import numpy as np

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import resize_image
from keras_resnet.errors import UserError


def calibration_images(
    images: np.ndarray | Sequence[np.ndarray], labels: np.ndarray | None, preprocessing: Preprocessing
) -> np.ndarray:
    """Brings images to the network's size and makes sure that they can calibrate it.

    Args:
        images: Images [height, width, channels], 0..255, RGB, of any sizes.
        labels: int [images], their classes; None where they are not known.
        preprocessing: The network's.

    Returns:
        float32 [images, height, width, channels], 0..255.

    Raises:
        UserError: There are none; all are of one class, constant, or the same; or the pixels are not in 0..255.
    """
    if not len(images):
        raise UserError("Calibration needs images, got none.")
    # Looked at before resizing, which cuts off what lies outside 0..255.
    low, high = (float(extreme([extreme(image) for image in images])) for extreme in (np.min, np.max))
    if not np.isfinite([low, high]).all() or low < 0 or high > 255 or (0 < high <= 1):
        raise UserError(
            f"Calibration images hold pixels from 0 to 255, got {low:g} to {high:g}: the network normalises them "
            "itself. Give the images as they were before normalisation."
        )
    resized = np.stack([np.asarray(resize_image(image, preprocessing)) for image in images])
    if (resized.max(axis=(1, 2, 3)) - resized.min(axis=(1, 2, 3))).max() == 0:
        raise UserError("Every calibration image is of one constant colour. Take images of the training data.")
    if len(resized) > 1 and (resized == resized[0]).all():
        raise UserError("All calibration images are the same. Take different images of the training data.")
    if labels is not None and len(labels) > 1 and len(np.unique(labels)) == 1:
        raise UserError(
            f"All {len(labels)} calibration images are of one class ({int(labels[0])}). Take images of all classes."
        )
    return resized
