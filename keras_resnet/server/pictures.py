"""Image files from clients, and heat maps laid over them. Free of TensorFlow.

`explanation.maps` and `explanation.inputs` do the same for networks whose layers can be asked for, by the same rules.
"""

import io

import numpy as np

from keras_resnet.data.images import decode_with_pillow
from keras_resnet.data.preprocessing import Preprocessing, seen_box
from keras_resnet.explanation.overlay import draw_overlay, drawable

# What the SavedModel's signatures read. Other formats of Pillow are rare, and each is code that strangers could reach.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
LARGEST_PICTURE = 1024  # pixels of a side


def decode_image(contents: bytes, preprocessing: Preprocessing, *, name: str, max_pixels: int) -> np.ndarray:
    """Decodes an image file as the network takes it.

    Args:
        contents: The bytes of the file.
        preprocessing: Says how many channels.
        name: What an error calls it.
        max_pixels: Most pixels; a file that claims more is refused before it is unpacked.

    Returns:
        uint8 [height, width, channels], 0..255, RGB.

    Raises:
        UserError: It is not a complete image, or has too many pixels.
    """
    return decode_with_pillow(contents, preprocessing.channels, name=name, formats=FORMATS, max_pixels=max_pixels)


def lay_over(image: np.ndarray, heatmap: np.ndarray, preprocessing: Preprocessing, *, title: str) -> bytes:
    """Draws a heat map over its image.

    Args:
        image: uint8 [H, W, 1 or 3].
        heatmap: float32 [rows, columns], at least 0.
        preprocessing: How the image became the network's input.
        title: Class and probability.

    Returns:
        The bytes of a PNG file.
    """
    image = drawable(image, LARGEST_PICTURE)
    heat = place_map(heatmap, preprocessing, image.shape[:2])
    picture = draw_overlay(image, heat, title=title, subtitle="Class activation map")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def place_map(heatmap: np.ndarray, preprocessing: Preprocessing, size: tuple[int, int]) -> np.ndarray:
    """Lays a heat map onto an image.

    Args:
        heatmap: float32 [rows, columns], at least 0.
        preprocessing: How the image became the network's input.
        size: (H, W) of the image.

    Returns:
        float32 [H, W], its maximum 1, or all 0 where nothing stands out. What a centre crop cut away is 0.
    """
    heatmap = np.asarray(heatmap, np.float32)
    top, left, bottom, right = seen_box(preprocessing, size)
    inside = _enlarging(heatmap.shape[0], bottom - top) @ heatmap @ _enlarging(heatmap.shape[1], right - left).T
    placed = np.zeros(size, np.float32)
    placed[top:bottom, left:right] = inside / inside.max() if inside.max() > 0 else 0.0
    return placed


def _enlarging(source: int, target: int) -> np.ndarray:
    """The matrix [target, source] that enlarges a row linearly, the corners on the corners."""
    position = np.arange(target, dtype=np.float32) * np.float32((source - 1) / max(target - 1, 1))
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(source, dtype=np.float32)))
