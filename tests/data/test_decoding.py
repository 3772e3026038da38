"""Decoding a part of a file: to the bit the same as that part of the whole."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet.data.decoding import decode_jpeg, decode_jpeg_part


def encoded(container="JPEG", mode="RGB", **options):
    """Colours that change between neighbours, where a decoder that lacks some would show it."""
    pixels = np.random.default_rng(0).integers(0, 256, (15, 23, 3), np.uint8)
    picture = Image.fromarray(pixels).resize((93, 61), Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    picture.save(file, container, **options)
    return file.getvalue()


FILES = {
    "4:2:0": encoded(subsampling="4:2:0", quality=90),
    "4:2:2": encoded(subsampling="4:2:2", quality=90),
    "4:4:4": encoded(subsampling="4:4:4", quality=90),
    "progressive": encoded(progressive=True),
    "grey": encoded(mode="L"),
    "png": encoded("PNG"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FILES)
def test_a_part_of_a_file_equals_that_part_of_the_whole(name, channels):
    whole = decode_jpeg(FILES[name], channels).numpy()
    decode = tf.function(lambda window: decode_jpeg_part(tf.constant(FILES[name]), channels, lambda h, w: window))
    random = np.random.default_rng(1)
    windows = [(0, 0, 61, 93), (60, 92, 1, 1), (0, 0, 1, 1), (17, 33, 16, 16), (16, 31, 17, 1)]
    for _ in range(40):
        height, width = random.integers(1, 62), random.integers(1, 94)
        windows.append((random.integers(0, 62 - height), random.integers(0, 94 - width), height, width))
    for top, left, height, width in windows:
        part = decode(tf.constant([top, left, height, width], tf.int32)).numpy()
        np.testing.assert_array_equal(part, whole[top : top + height, left : left + width])


def test_the_rectangle_is_chosen_from_the_files_size():
    sizes = []
    decode_jpeg_part(
        tf.constant(FILES["4:2:0"]), 3, lambda h, w: sizes.append((int(h), int(w))) or tf.stack([0, 0, h, w])
    )
    assert sizes == [(61, 93)]
