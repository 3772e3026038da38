"""Heat maps on images without TensorFlow, equal to those that it draws."""

import dataclasses

import numpy as np
import pytest

from keras_resnet.explanation.inputs import place_maps
from keras_resnet.explanation.maps import RawMaps, finish_maps
from keras_resnet.server.pictures import place_map


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("size", [(17, 20), (50, 40), (31, 77), (7, 300)])
def test_maps_lie_where_explanations_lay_them(preprocessing, resize, size):
    preprocessing = dataclasses.replace(preprocessing, resize=resize)
    values = np.random.default_rng(0).uniform(0, 9, (1, 2, 3)).astype(np.float32)
    placed = place_map(values[0], preprocessing, size)
    assert placed.shape == size
    assert placed.max() == pytest.approx(1, abs=1e-6)
    # There a map is enlarged twice: to the network's size, then onto the image.
    raw = RawMaps(values, np.ones(1, np.float32))
    expected = place_maps(finish_maps(raw, 16, 20, what="test"), preprocessing, size)[0]
    assert ((placed > 0) == (expected > 0)).mean() > 0.99
    np.testing.assert_allclose(placed, expected, atol=0.12)


def test_nothing_that_stands_out_is_no_map(preprocessing):
    assert place_map(np.zeros((2, 3), np.float32), preprocessing, (30, 40)).max() == 0
