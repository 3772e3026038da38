import io

import numpy as np
import pytest
from PIL import Image

from keras_resnet.explanation.overlay import (
    READABLE,
    blend,
    color_table,
    colorize,
    draw_overlay,
    draw_sheet,
)
from keras_resnet.pages import png


def lab(rgb):
    linear = rgb / 255
    linear = np.where(linear > 0.04045, ((linear + 0.055) / 1.055) ** 2.4, linear / 12.92)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    xyz = xyz / (0.95047, 1, 1.08883)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def test_colours_are_perceptually_even():
    colors = lab(color_table())
    # Over 8 values, where rounding to 8 bits does not count any more; the darkest end leaves sRGB a little.
    steps = np.linalg.norm(colors[8:] - colors[:-8], axis=1)
    assert steps.std() / steps.mean() < 0.1
    assert (np.diff(colors[::4, 0]) > 0).all()


def test_map_and_bar_have_the_colours_of_their_values():
    heat = np.linspace(0, 1, 256, dtype=np.float32)[None]
    np.testing.assert_array_equal(colorize(heat)[0], color_table())
    np.testing.assert_array_equal(blend(np.zeros((1, 256, 3), np.uint8), heat, opacity=1)[0], color_table())


@pytest.mark.parametrize("size", [(300, 411), (700, 260)])
def test_overlay_has_the_image_s_resolution(size):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (*size, 3), np.uint8)
    heat = random.random(size).astype(np.float32)
    picture = np.asarray(draw_overlay(image, heat, title="cat 93.1%", subtitle="Grad-CAM"))
    expected = blend(image, heat)
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], (1, size[1]))
    places = np.argwhere((windows[:, :, 0] == expected[0, :, 0]).all(axis=-1))
    assert len(places) == 1
    top, left = places[0]
    np.testing.assert_array_equal(picture[top : top + size[0], left : left + size[1]], expected)


def test_small_grey_images_are_enlarged_with_square_pixels():
    image = np.random.default_rng(0).integers(0, 256, (32, 40, 1), np.uint8)
    picture = draw_overlay(image, np.zeros((32, 40), np.float32), title="a label far too long for this " * 9)
    times = -(-READABLE // 32)
    assert picture.width > 40 * times
    assert picture.height > 32 * times


def test_sheet_holds_every_map():
    images = [np.zeros((20, 30, 3), np.uint8), np.zeros((40, 10, 1), np.uint8)]
    heats = [[np.full(image.shape[:2], value, np.float32) for value in (0.2, 0.7, 1.0)] for image in images]
    sheet = draw_sheet(images, heats, rows=["one", "two"], columns=["a", "b", "c"], cell=60)
    colors = {tuple(color) for color in np.asarray(sheet).reshape(-1, 3)}
    for value in (0.2, 0.7, 1.0):
        assert tuple(blend(images[0], np.full((20, 30), value, np.float32))[0, 0]) in colors
    assert Image.open(io.BytesIO(png(sheet))).size == sheet.size


def test_constant_map_is_named():
    image = np.full((300, 300, 3), 128, np.uint8)
    nothing = np.asarray(draw_overlay(image, np.zeros((300, 300), np.float32), title="cat", subtitle=""))
    named = np.asarray(draw_overlay(image, np.ones((300, 300), np.float32), title="cat", subtitle=""))
    # The second line of the caption holds ink in one and none in the other.
    assert nothing[24:40, :250].min() < 200
    assert named[26:34, :250].min() > 200
