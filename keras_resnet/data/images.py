"""Image files read and resized with Pillow. Imports no TensorFlow.

`decode_with_pillow` and the TensorFlow operators of `decoding` follow the same rules and agree bit for bit where both
read a format (JPEG is decoded with the accurate integer transform for that reason). Pillow reads more formats and names
the file that is broken.

The rules of decoding:

- Pixels are 8-bit RGB or, for one channel, the luma of Rec. 601 in Pillow's integer arithmetic. Grey, palette
  and CMYK files are converted; 16-bit files keep their high byte.
- Transparent pixels are blended onto white. A GIF's transparent pixels are black, because TensorFlow's
  decoder drops which ones they were. Of an animation the first frame counts. The fourth byte of a BMP's
  pixels is ignored: few programs write an opacity there.
- A JPEG's EXIF orientation is applied: the network sees the photograph as a person does.
"""

import io
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.data.preprocessing import LUMA, Preprocessing
from keras_resnet.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp")
# What Pillow may open. Left to itself it tries every format that it knows, and starts Ghostscript for an EPS file,
# whatever its name.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "ICO")
MAX_FILE_BYTES = 1 << 30
_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)  # two flags that only some systems have
_PILLOW_NAMES = {"lanczos3": "lanczos"}


def is_shown(name: str) -> bool:
    """Whether a file or folder counts: names that begin with "." or "__" are the system's."""
    return not name.startswith((".", "__"))


def image_files(paths: Sequence[str | os.PathLike[str]]) -> Iterator[tuple[str, str | None]]:
    """Lists image files: files as given, and for a folder the images in it and below, in order of name.

    Links to folders are not followed below a given folder, so that a loop of links ends nowhere.

    Yields:
        (path, None), or (path, what is wrong with it) for a folder without images.
    """
    for given in paths:
        if not os.path.isdir(given):
            yield os.fspath(given), None
            continue
        found = sorted(
            Path(folder, name)
            for folder, _, names in os.walk(given)
            for name in names
            if is_shown(name) and name.lower().endswith(SUFFIXES) and os.path.isfile(os.path.join(folder, name))
        )
        if not found:
            yield os.fspath(given), f"The folder {given} holds no images ({', '.join(SUFFIXES)})."
        for path in found:
            yield os.fspath(path), None


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Reads a regular file; a pipe or a device could block for ever or never end.

    Raises:
        OSError: The file cannot be read, or is not a regular file of at most 1 GiB.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(0, "not a regular file")
    if found.st_size > MAX_FILE_BYTES:
        raise OSError(0, f"{found.st_size:,} bytes are too large for an image")
    # For a small file, a Python file object would take twice as long.
    file = os.open(path, _READ)
    try:
        contents = os.read(file, found.st_size + 1)
        if len(contents) != found.st_size:  # the file has changed meanwhile, or its file system returns it in parts
            while part := os.read(file, 1 << 20):
                contents += part
    finally:
        os.close(file)
    return contents


def read_image(path: str | os.PathLike[str], channels: int = 3) -> np.ndarray:
    """Reads an image file with Pillow by the same rules as `decode_image`.

    Args:
        path: The file: JPEG, PNG, GIF, BMP, WebP or another format that Pillow reads.
        channels: 1 (grey) or 3 (RGB).

    Returns:
        uint8 array [height, width, channels], 0..255.

    Raises:
        UserError: There is no such file, or it is not a complete image.
    """
    return decode_with_pillow(read_image_file(path), channels, name=os.fspath(path))


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    """Returns the bytes of an image file.

    Raises:
        UserError: There is no such file, or it cannot be read.
    """
    try:
        return read_file(path)
    except OSError as error:
        raise UserError(f"Cannot read the image {os.fspath(path)}: {error.strerror}.") from None


def decode_with_pillow(
    contents: bytes, channels: int, *, name: str, formats: Sequence[str] = FORMATS, max_pixels: int | None = None
) -> np.ndarray:
    """Decodes the bytes of an image file with Pillow; `read_image` without the file.

    Args:
        contents: The bytes of the file.
        channels: 1 (grey) or 3 (RGB).
        name: What an error calls the image, for example its path.
        formats: What the file may be, names of Pillow.
        max_pixels: How many pixels the image may have; its header tells, before anything is unpacked.

    Returns:
        uint8 array [height, width, channels], 0..255.

    Raises:
        UserError: The bytes are not a complete image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(contents), formats=formats) as image:
            width, height = image.size
            if max_pixels is not None and width * height > max_pixels:
                raise UserError(
                    f"{name} has {width} × {height} pixels, at most {max_pixels:,} are allowed. Make it smaller."
                )
            container = image.format
            image.load()
            if container in ("JPEG", "MPO"):  # MPO: a JPEG with further pictures behind it, as phones write
                image = ImageOps.exif_transpose(image)
            rgb = _rgb_from_pillow(image, container)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name} is not an image that can be read. Use JPEG, PNG, GIF, BMP or WebP.") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, …
        raise UserError(f"{name} is not a complete image: {error}. Replace or remove the file.") from None
    if channels == 1:
        weighted = rgb.astype(np.int32) @ np.array(LUMA, np.int32)
        return ((weighted + 0x8000) >> 16).astype(np.uint8)[..., np.newaxis]
    return rgb


def _rgb_from_pillow(image: Any, container: str | None) -> np.ndarray:
    if image.mode.startswith("I;16") or (image.mode == "I" and container == "PNG"):
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)  # the high byte, as for 16-bit RGB
        return np.repeat(grey[..., np.newaxis], 3, axis=-1)
    has_opacity = image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info
    if not has_opacity or container == "BMP":
        return np.asarray(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA")).astype(np.int32)
    color, opacity = rgba[..., :3], rgba[..., 3:]
    background = 0 if container == "GIF" else 255
    return ((color * opacity + background * (255 - opacity) + 127) // 255).astype(np.uint8)


def resize_with_pillow(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Brings an image to the network's size with Pillow by the same rules as `transforms.resize_image`.

    Of an image that is cropped nothing but what the network sees is computed, so that a strip of 1 × 1,000,000 pixels
    costs no more than others.

    Args:
        image: uint8 [height, width, preprocessing.channels], 0..255, RGB.
        preprocessing: The settings.

    Returns:
        float32 [preprocessing.height, preprocessing.width, preprocessing.channels], 0..255.
    """
    from PIL import Image

    height, width = image.shape[:2]
    rows, columns, top, left = _resized(height, width, preprocessing)
    target = (preprocessing.height, preprocessing.width)
    if (rows, columns) == (height, width):
        return image[top : top + target[0], left : left + target[1]].astype(np.float32)
    if preprocessing.interpolation == "nearest":
        # In float32, as TensorFlow: where a pixel's centre falls between two, rounding decides.
        scales = np.float32(height / rows), np.float32(width / columns)
        starts = zip((top, left), target, scales, strict=True)
        y, x = (
            np.floor((np.arange(side, dtype=np.float32) + np.float32(start + 0.5)) * scale)
            for start, side, scale in starts
        )
        return image[np.minimum(y.astype(int), height - 1)][:, np.minimum(x.astype(int), width - 1)].astype(np.float32)
    kernel = Image.Resampling[_PILLOW_NAMES.get(preprocessing.interpolation, preprocessing.interpolation).upper()]
    across, down = width / columns, height / rows
    box = (left * across, top * down, (left + target[1]) * across, (top + target[0]) * down)
    # In float32, a channel at a time: Pillow rounds the 8 bits of colour images after each of the two directions.
    channels = [
        Image.fromarray(image[..., channel].astype(np.float32)).resize(target[::-1], kernel, box=box)
        for channel in range(image.shape[-1])
    ]
    return np.clip(np.stack([np.asarray(channel) for channel in channels], axis=-1), 0.0, 255.0)


def _resized(height: int, width: int, preprocessing: Preprocessing) -> tuple[int, int, int, int]:
    """Height and width that an image is brought to, and the top and left of what is kept of it."""
    if preprocessing.resize == "squash":
        return preprocessing.height, preprocessing.width, 0, 0
    cover_height = round(preprocessing.height / preprocessing.crop_fraction)
    cover_width = round(preprocessing.width / preprocessing.crop_fraction)
    if height * cover_width >= width * cover_height:
        rows, columns = max(height * cover_width // width, cover_height), cover_width
    else:
        rows, columns = cover_height, max(width * cover_height // height, cover_width)
    return rows, columns, round((rows - preprocessing.height) / 2), round((columns - preprocessing.width) / 2)
