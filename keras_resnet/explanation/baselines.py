"""Maps that know nothing of image or network. A method that scores no better than these explains nothing."""

import numpy as np

from keras_resnet.explanation.classifier import Classifier
from keras_resnet.explanation.maps import RawMaps

# As coarse as a last feature map: noise in single pixels would be an easier opponent.
RANDOM_SIDE = 7


def gaussian(classifier: Classifier, images, targets, **_) -> RawMaps:
    """A Gaussian in the centre, its standard deviation a quarter of each side: objects tend to be there."""
    del classifier, targets
    count, height, width = images.shape[:3]
    rows, columns = (((np.arange(side) + 0.5) / side - 0.5) / 0.25 for side in (height, width))
    bell = np.exp(-0.5 * (rows[:, None] ** 2 + columns[None] ** 2)).astype(np.float32)
    return RawMaps(np.repeat(bell[None], count, axis=0), np.ones(count, np.float32))


def random(classifier: Classifier, images, targets, *, seed: int = 0, **_) -> RawMaps:
    """Random numbers on a coarse grid. An image's map depends on the seed and the image's pixels alone."""
    del classifier, targets
    images = np.asarray(images, np.float32)
    values = [
        np.random.default_rng([seed, int(np.abs(image).sum() * 1000)]).random((RANDOM_SIDE, RANDOM_SIDE), np.float32)
        for image in images
    ]
    return RawMaps(np.stack(values), np.ones(len(images), np.float32))
