"""Image files read with Pillow. Imports no TensorFlow.

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

from keras_resnet.data.preprocessing import LUMA
from keras_resnet.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp")
# What Pillow may open. Left to itself it tries every format that it knows, and starts Ghostscript for an EPS file,
# whatever its name.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "ICO")
MAX_FILE_BYTES = 1 << 30


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
    with open(path, "rb") as file:
        return file.read()


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
    path = os.fspath(path)
    try:
        contents = read_file(path)
    except OSError as error:
        raise UserError(f"Cannot read the image {path}: {error.strerror}.") from None
    return decode_with_pillow(contents, channels, name=path)


def decode_with_pillow(contents: bytes, channels: int, *, name: str) -> np.ndarray:
    """Decodes the bytes of an image file with Pillow; `read_image` without the file.

    Args:
        contents: The bytes of the file.
        channels: 1 (grey) or 3 (RGB).
        name: What an error calls the image, for example its path.

    Returns:
        uint8 array [height, width, channels], 0..255.

    Raises:
        UserError: The bytes are not a complete image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(contents), formats=FORMATS) as image:
            container = image.format
            image.load()
            if container in ("JPEG", "MPO"):  # MPO: a JPEG with further pictures behind it, as phones write
                image = ImageOps.exif_transpose(image)
            rgb = _rgb_from_pillow(image, container)
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
