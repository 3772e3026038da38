"""Pictures of heat maps: over the image, with class, probability and colour bar; and sheets of methods × images.

The colours run along a spiral in CIELAB from dark violet over red to light yellow, in steps of equal colour difference
and rising lightness: equal steps of the map look equally large, in grey print, too. (The idea of Niccoli 2010 and of
matplotlib's inferno; the table is computed, not copied.)

Reference:
    CIE 1976 L*a*b*, with the sRGB primaries of IEC 61966-2-1.
"""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Smaller images are enlarged a whole number of times, pixels kept square, so that the caption can be read.
READABLE = 240
# Larger images are drawn smaller: a map tells no more, and a picture of 13,000 × 13,000 pixels takes gigabytes.
LARGEST = 4096
CELL = 224
_INK, _PAPER, _FAINT = (24, 24, 28), (255, 255, 255), (110, 110, 118)
CONSTANT = "constant map: nothing stands out"


@functools.cache
def color_table() -> np.ndarray:
    """Returns the colour of each of 256 values, uint8 [256, 3], from "nothing" to "most"."""
    way = np.linspace(0, 1, 4096)
    chroma = 62 * np.sin(np.pi * (0.02 + 0.84 * way)) ** 0.8
    hue = np.radians(-70 + 165 * way)
    lab = np.stack([5 + 90 * way, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(lab, axis=0), axis=1))])
    even = np.linspace(0, length[-1], 256)
    lab = np.stack([np.interp(even, length, lab[:, i]) for i in range(3)], axis=1)
    y = (lab[:, 0] + 16) / 116
    xyz = np.stack([y + lab[:, 1] / 500, y, y - lab[:, 2] / 200], axis=1)
    xyz = np.where(xyz > 6 / 29, xyz**3, 3 * (6 / 29) ** 2 * (xyz - 4 / 29)) * (0.95047, 1.0, 1.08883)
    linear = xyz @ np.array([[3.2406, -0.9689, 0.0557], [-1.5372, 1.8758, -0.2040], [-0.4986, 0.0415, 1.0570]])
    linear = np.clip(linear, 0, 1)
    srgb = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return np.rint(255 * srgb).astype(np.uint8)


def colorize(heat: np.ndarray) -> np.ndarray:
    """Returns the colours of a map [H, W], 0..1, as uint8 [H, W, 3]."""
    return color_table()[np.rint(np.clip(heat, 0, 1) * 255).astype(np.uint8)]


def blend(image: np.ndarray, heat: np.ndarray, *, opacity: float = 0.6) -> np.ndarray:
    """Lays a map over an image.

    Args:
        image: uint8 [H, W, 1 or 3].
        heat: float32 [H, W], 0..1.
        opacity: The colours' share, 0..1.

    Returns:
        uint8 [H, W, 3]. The image is grey: all colour is the map's.
    """
    grey = np.asarray(image, np.float32) @ ((0.299, 0.587, 0.114) if image.shape[-1] == 3 else (1.0,))
    mixed = (1 - opacity) * grey[..., None] + opacity * colorize(heat)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def draw_overlay(image: np.ndarray, heat: np.ndarray, *, title: str, subtitle: str = "") -> Image.Image:
    """Draws a map over its image at the image's resolution, a caption above and a colour bar beside it.

    Args:
        image: uint8 [H, W, 1 or 3].
        heat: float32 [H, W], 0..1.
        title: First line, for example class and probability.
        subtitle: Second line, for example the method.

    Returns:
        The picture. Its image part is the original pixel for pixel; sides below `READABLE` are enlarged a whole
        number of times.
    """
    times = max(1, min(-(-READABLE // min(heat.shape)), LARGEST // max(heat.shape)))
    picture = Image.fromarray(blend(image, heat))
    picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    size = int(np.clip(picture.height / 24, 13, 48))
    pad, bar, line = size // 2, max(10, size), round(size * 1.35)
    scale_width = round(size * 2.2)
    lines = [(title, _INK, size), (CONSTANT if heat.max() <= 0 else subtitle, _FAINT, round(size * 0.85))]
    top = 2 * pad + line * len(lines)
    canvas = Image.new("RGB", (picture.width + 3 * pad + bar + scale_width, picture.height + top + pad), _PAPER)
    pen = ImageDraw.Draw(canvas)
    for index, (text, color, height) in enumerate(lines):
        text = _fitted(pen, text, canvas.width - 2 * pad, height)
        pen.text((pad, pad + index * line), text, fill=color, font=_font(height))
    canvas.paste(picture, (pad, top))
    left = picture.width + 2 * pad
    ramp = np.repeat(np.linspace(1, 0, picture.height, dtype=np.float32)[:, None], bar, axis=1)
    canvas.paste(Image.fromarray(colorize(ramp)), (left, top))
    for value in (1.0, 0.5, 0.0):
        place = top + round((1 - value) * (picture.height - 1))
        anchor = {1.0: "lt", 0.5: "lm", 0.0: "lb"}[value]
        pen.text(
            (left + bar + pad // 2, place), f"{value:g}", fill=_FAINT, font=_font(round(size * 0.8)), anchor=anchor
        )
    return canvas


def draw_sheet(
    images: Sequence[np.ndarray],
    heats: Sequence[Sequence[np.ndarray]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    cell: int = CELL,
) -> Image.Image:
    """Draws methods × images on one sheet: a row per image, first as it is, then under each method.

    Args:
        images: uint8 [H, W, 1 or 3] each, of any sizes.
        heats: For each image one map float32 [H, W] a method.
        rows: A caption for each image.
        columns: A heading for each method.
        cell: Longer side of a picture on the sheet in pixels.

    Returns:
        The sheet.
    """
    gap, head, size = 10, 30, 15
    width = gap + (len(columns) + 1) * (cell + gap)
    pictures = [
        [fit(pixels, cell) for pixels in (_colored(image), *(blend(image, heat) for heat in maps))]
        for image, maps in zip(images, heats, strict=True)
    ]
    height = head + sum(row[0].height + head + gap for row in pictures) + gap
    canvas = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(canvas)
    for index, heading in enumerate(("image", *columns)):
        place = gap + index * (cell + gap)
        pen.text((place, gap), _fitted(pen, heading, cell, size), fill=_INK, font=_font(size))
    top = head + gap
    for row, maps, caption in zip(pictures, heats, rows, strict=True):
        pen.text((gap, top), _fitted(pen, caption, width - 2 * gap, size), fill=_FAINT, font=_font(size))
        for index, picture in enumerate(row):
            left = gap + index * (cell + gap)
            canvas.paste(picture, (left, top + head - gap // 2))
            if index and maps[index - 1].max() <= 0:
                pen.text((left + 6, top + head), "constant map", fill=_PAPER, font=_font(size))
        top += row[0].height + head + gap
    return canvas


def drawable(image: np.ndarray, largest: int = LARGEST) -> np.ndarray:
    """Returns an image, uint8 [H, W, 1 or 3], with its longer side brought down to `largest` pixels."""
    if max(image.shape[:2]) <= largest:
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    ratio = largest / max(picture.size)
    size = [max(1, round(side * ratio)) for side in picture.size]
    return np.asarray(picture.resize(size, Image.Resampling.BOX)).reshape(*size[::-1], image.shape[-1])


def fit(pixels: np.ndarray, side: int) -> Image.Image:
    """Scales an image [H, W, 3] so that its longer side has `side` pixels; small ones keep square pixels."""
    picture = Image.fromarray(pixels)
    ratio = side / max(picture.size)
    how = Image.Resampling.NEAREST if ratio >= 2 else Image.Resampling.BICUBIC
    return picture.resize((max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio))), how)


def _colored(image: np.ndarray) -> np.ndarray:
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


@functools.cache
def _font(size: int):
    return ImageFont.load_default(size)


def _fitted(pen, text: str, width: int, size: int) -> str:
    """The text, shortened until it fits."""
    font, text = _font(size), " ".join(text.split())  # a class may be called by several lines
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"
