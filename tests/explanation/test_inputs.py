"""Heat maps cover what the network saw of an image."""

import numpy as np
import pytest

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import preprocess
from keras_resnet.explanation.inputs import place_maps


@pytest.mark.parametrize(("resize", "crop_fraction"), [("squash", 1.0), ("crop", 1.0), ("crop", 0.5)])
@pytest.mark.parametrize("size", [(8, 8), (12, 8), (16, 16)])
def test_a_map_covers_the_pixels_that_the_input_depends_on(resize, crop_fraction, size):
    """Each pixel in turn is lit. Interpolation reaches one pixel beyond the crop."""
    preprocessing = Preprocessing(8, 8, 1, (0.0,), (1.0,), resize=resize, crop_fraction=crop_fraction)
    lit = 255 * np.eye(size[0] * size[1], dtype=np.float32).reshape(-1, *size, 1)
    matters = np.abs(np.asarray(preprocess(lit, preprocessing))).max(axis=(1, 2, 3)).reshape(size) > 1e-6
    placed = place_maps(np.ones((1, 8, 8), np.float32), preprocessing, size)[0]
    assert placed.shape == size
    for axis in (0, 1):
        covered, seen = (np.flatnonzero(mask.any(axis=1 - axis)) for mask in (placed > 0, matters))
        assert seen[0] <= covered[0] <= seen[0] + 1
        assert seen[-1] - 1 <= covered[-1] <= seen[-1]
