"""From the bytes of an image file to the input of a network: deterministic, the same for training, evaluation
and serving.

`decode_image`, `resize_image`, `normalize` and `preprocess` are pure TensorFlow operators, so an exported
graph carries them; `read_image` is the same rule written with Pillow, which reads more formats and names the
file that is broken. Where both read a format they agree bit for bit (JPEG is decoded with the accurate
integer transform for that reason).

The rules of decoding:

- Pixels are 8-bit RGB or, for one channel, the luma of Rec. 601 in Pillow's integer arithmetic. Grey, palette
  and CMYK files are converted; 16-bit files keep their high byte.
- Transparent pixels are blended onto white. A GIF's transparent pixels are black, because TensorFlow's
  decoder drops which ones they were. Of an animation the first frame counts. The fourth byte of a BMP's
  pixels is ignored: few programs write an opacity there.
- A JPEG's EXIF orientation is applied: the network sees the photograph as a person does.
"""

import dataclasses
import hashlib
import io
import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.errors import UserError, unknown_name

COLOR_ORDERS = ("rgb", "bgr")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos3", "nearest")
RESIZES = ("squash", "crop")

# Luma weights of Rec. 601 in 16-bit fixed point, as Pillow's convert("L") uses them.
_LUMA = (19595, 38470, 7471)

# Where `decode_image` stops to look for the beginning of a JPEG's EXIF; behind a usual header it begins at
# byte 20.
_EXIF_STARTS_WITHIN = 4096


@dataclass(frozen=True)
class Preprocessing:
    """What happens between an image and the network; stored with every trained and exported model.

    Attributes:
        height: Height of the network input in pixels.
        width: Width of the network input in pixels.
        channels: 3 for colour or 1 for grey.
        mean: Mean of each channel for pixels scaled to 0..1, in the network's channel order.
        std: Standard deviation of each channel for pixels scaled to 0..1, in the network's channel order.
        color_order: "rgb" or "bgr", the network's channel order. Images are RGB until `normalize` reorders
            them.
        interpolation: "bilinear", "bicubic", "lanczos3" or "nearest"; antialiased when shrinking, as in
            Pillow.
        resize: "squash" stretches the whole image to the input size; "crop" keeps its proportions, brings the
            image to cover size / crop_fraction and cuts out the centre.
        crop_fraction: The part of the resized image's side that the centre crop keeps (0.875 for 256 → 224).
        labels: The class names in the order of the network's outputs; empty when unknown.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    color_order: str = "rgb"
    interpolation: str = "bilinear"
    resize: str = "squash"
    crop_fraction: float = 1.0
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"The input {name} must be a whole number of pixels of at least 1, got {value!r}.")
        if self.channels not in (1, 3) or isinstance(self.channels, bool):
            raise UserError(f"An image has 1 channel (grey) or 3 (colour), got {self.channels!r}.")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, list | tuple) or not all(
                isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
                for value in values
            ):
                raise UserError(f"{name} must be a sequence of finite numbers, got {values!r}.")
            if len(values) != self.channels:
                raise UserError(f"{name} needs one number a channel ({self.channels}), got {len(values)}: {values!r}.")
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if min(self.std) <= 0:
            raise UserError(f"std must be above 0 in every channel, got {self.std!r}.")
        for name, valid in (
            ("color_order", COLOR_ORDERS),
            ("interpolation", INTERPOLATIONS),
            ("resize", RESIZES),
        ):
            if getattr(self, name) not in valid:
                raise unknown_name(name, getattr(self, name), valid)
        if self.channels == 1 and self.color_order != "rgb":
            raise UserError(f"color_order {self.color_order!r} needs 3 channels; a grey image has 1. Use 'rgb'.")
        if (
            isinstance(self.crop_fraction, bool)
            or not isinstance(self.crop_fraction, int | float)
            or not 0 < self.crop_fraction <= 1
        ):
            raise UserError(f"crop_fraction must be above 0 and at most 1, got {self.crop_fraction!r}.")
        object.__setattr__(self, "crop_fraction", float(self.crop_fraction))
        if not isinstance(self.labels, list | tuple) or not all(isinstance(label, str) for label in self.labels):
            raise UserError(f"labels must be a sequence of class names, got {self.labels!r}.")
        object.__setattr__(self, "labels", tuple(self.labels))

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as a dictionary that JSON can hold; `from_dict` reads it back."""
        settings = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> "Preprocessing":
        """Builds the settings that `to_dict` wrote.

        Raises:
            UserError: A key is unknown or missing (nothing is assumed silently), or a value breaks its rule.
        """
        if not isinstance(settings, dict):
            raise UserError(f"Preprocessing is a JSON object, got {type(settings).__name__}.")
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(map(str, set(settings) - set(names)))
        if unknown:
            raise unknown_name("preprocessing key", unknown[0], names)
        missing = [name for name in names if name not in settings]
        if missing:
            raise UserError(
                f"Preprocessing needs every key, missing: {', '.join(missing)}. "
                "Take the file that was written together with the model."
            )
        return cls(**settings)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the settings in canonical JSON, as 64 hexadecimal digits."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def decode_jpeg(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes an upright JPEG file: the short way of `decode_image` where the file is known to be one.

    TensorFlow's operator reads a PNG too, without its opacity.

    Args:
        contents: Scalar string tensor, the bytes of the file.
        channels: 1 or 3.

    Returns:
        uint8 tensor [height, width, channels], 0..255. EXIF orientation is not looked at.
    """
    # The default, INTEGER_FAST, is no faster in today's libjpeg-turbo and up to 3 grey levels off Pillow.
    image = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")
    return _to_channels(image, channels)


def decode_image(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes a JPEG, PNG, GIF, BMP or WebP file with TensorFlow operators alone.

    Args:
        contents: Scalar string tensor, the bytes of the file.
        channels: 1 (grey) or 3 (RGB).

    Returns:
        uint8 tensor [height, width, channels], 0..255, height and width dynamic. Contents that no decoder
        reads raise tf.errors.InvalidArgumentError when the graph runs.
    """
    contents = tf.reshape(contents, [])

    def jpeg() -> tf.Tensor:
        image = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")
        return _orient(image, _exif_orientation(contents))

    def png() -> tf.Tensor:
        # channels=4 would be simpler, but then palette files come back with a wrong opacity.
        return _on_white(tf.io.decode_png(contents, channels=0))

    def bmp() -> tf.Tensor:
        bits_per_pixel = tf.cast(tf.io.decode_raw(tf.strings.substr(contents, 28, 2), tf.uint16)[0], tf.int32)
        return tf.cond(tf.equal(bits_per_pixel, 8), lambda: _palette_bmp(contents), direct_bmp)

    def direct_bmp() -> tf.Tensor:
        image = tf.io.decode_bmp(contents, channels=0)
        image = tf.cond(tf.equal(tf.shape(image)[-1], 1), lambda: tf.repeat(image, 3, axis=-1), lambda: image)
        return tf.ensure_shape(image[..., :3], [None, None, 3])

    def webp() -> tf.Tensor:
        return _on_white(tf.io.decode_image(contents, channels=0, expand_animations=False))

    def other() -> tf.Tensor:  # GIF, or an error that names the formats
        image = tf.io.decode_image(contents, channels=3, expand_animations=False)
        return tf.ensure_shape(image, [None, None, 3])

    padded = contents + b"\0" * 16  # substr refuses positions past the end of a short file

    def starts_with(signature: bytes, position: int = 0) -> tf.Tensor:
        return tf.equal(tf.strings.substr(padded, position, len(signature)), signature)

    # One question inside the other, so that the most frequent formats are answered first and pay for no
    # other.
    def not_jpeg() -> tf.Tensor:
        return tf.cond(starts_with(b"\x89PNG"), png, not_png)

    def not_png() -> tf.Tensor:
        is_webp = tf.logical_and(starts_with(b"RIFF"), starts_with(b"WEBP", 8))
        return tf.cond(is_webp, webp, lambda: tf.cond(starts_with(b"BM"), bmp, other))

    image = tf.cond(starts_with(b"\xff\xd8\xff"), jpeg, not_jpeg)
    return _to_channels(tf.ensure_shape(image, [None, None, 3]), channels)


def read_image(path: str | os.PathLike[str], channels: int = 3) -> np.ndarray:
    """Reads an image file with Pillow by the same rules as `decode_image`.

    Args:
        path: The file: JPEG, PNG, GIF, BMP, WebP or another format that Pillow reads.
        channels: 1 (grey) or 3 (RGB).

    Returns:
        uint8 array [height, width, channels], 0..255.

    Raises:
        UserError: There is no such file, or it is no whole image.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            contents = file.read()
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
        UserError: The bytes are no whole image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(contents)) as image:
            container = image.format
            image.load()
            if container in ("JPEG", "MPO"):  # MPO: a JPEG with further pictures behind it, as phones write
                image = ImageOps.exif_transpose(image)
            rgb = _rgb_from_pillow(image, container)
    except UnidentifiedImageError:
        raise UserError(f"{name} is no image that can be read. Use JPEG, PNG, GIF, BMP or WebP.") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, …
        raise UserError(f"{name} is no whole image: {error}. Replace or remove the file.") from None
    if channels == 1:
        weighted = rgb.astype(np.int32) @ np.array(_LUMA, np.int32)
        return ((weighted + 0x8000) >> 16).astype(np.uint8)[..., np.newaxis]
    return rgb


def resize_image(images: Any, preprocessing: Preprocessing) -> tf.Tensor:
    """Brings images of any one size to the network's size and number of channels.

    Args:
        images: [..., height, width, 1 or 3], uint8 or float, 0..255, RGB: one image or a batch.
        preprocessing: The settings.

    Returns:
        float32 tensor [..., preprocessing.height, preprocessing.width, preprocessing.channels], 0..255.
    """
    images = tf.convert_to_tensor(images)
    images = _to_channels(images, preprocessing.channels)
    target = (preprocessing.height, preprocessing.width)
    if preprocessing.resize == "squash":
        resized = _resize(images, target, preprocessing.interpolation)
    else:
        resized = _resize_and_crop(images, target, preprocessing)
    return tf.ensure_shape(resized, [*images.shape[:-3], *target, preprocessing.channels])


def normalize(images: Any, preprocessing: Preprocessing) -> tf.Tensor:
    """Turns pixels into network input: (pixel / 255 - mean) / std, in the network's channel order.

    Args:
        images: [..., channels], uint8 or float, 0..255, RGB.
        preprocessing: The settings.

    Returns:
        float32 tensor of the same shape.
    """
    images = tf.cast(images, tf.float32)
    if preprocessing.color_order == "bgr":
        images = tf.reverse(images, axis=[-1])
    # One multiplication and one addition, their factors from double precision: as exact as the formula in
    # float32, and twice as fast.
    std = np.asarray(preprocessing.std, np.float64)
    scale = np.asarray(1.0 / (255.0 * std), np.float32)
    offset = np.asarray(-np.asarray(preprocessing.mean, np.float64) / std, np.float32)
    return images * scale + offset


def preprocess(images: Any, preprocessing: Preprocessing) -> tf.Tensor:
    """Resizes and normalizes: everything between a decoded image and the network.

    Args:
        images: [..., height, width, 1 or 3], uint8 or float, 0..255, RGB.
        preprocessing: The settings.

    Returns:
        float32 tensor [..., preprocessing.height, preprocessing.width, preprocessing.channels].
    """
    return normalize(resize_image(images, preprocessing), preprocessing)


def _to_channels(images: tf.Tensor, channels: int) -> tf.Tensor:
    """Converts between grey and RGB where the last axis says that it is the other one."""
    if images.shape[-1] == channels:
        return images
    if channels == 3:
        return tf.repeat(images, 3, axis=-1)
    if images.dtype.is_floating:
        weights = np.array(_LUMA, np.float32) / 65536.0
        return tf.reduce_sum(tf.cast(images, tf.float32) * weights, axis=-1, keepdims=True)
    weighted = tf.reduce_sum(tf.cast(images, tf.int32) * _LUMA, axis=-1, keepdims=True)
    return tf.cast((weighted + 0x8000) // 65536, images.dtype)


def _resize(images: tf.Tensor, size: Any, interpolation: str) -> tf.Tensor:
    if isinstance(size, tuple) and tuple(images.shape[-3:-1]) == size:
        return tf.cast(images, tf.float32)
    resized = tf.cast(tf.image.resize(images, size, interpolation, antialias=True), tf.float32)
    # Bicubic and Lanczos overshoot at edges, and the others by a rounding; Pillow's 8 bits cannot, so neither
    # does this.
    return resized if interpolation == "nearest" else tf.clip_by_value(resized, 0.0, 255.0)


def _resize_and_crop(images: tf.Tensor, target: tuple[int, int], preprocessing: Preprocessing) -> tf.Tensor:
    height, width = target
    cover_height = round(height / preprocessing.crop_fraction)
    cover_width = round(width / preprocessing.crop_fraction)
    shape = tf.shape(images)
    image_height, image_width = shape[-3], shape[-2]
    # Whole-number arithmetic, so that the size never hangs on the rounding of a quotient. The longer side is
    # rounded down, as torchvision does it, but never below what the crop needs.
    taller = image_height * cover_width >= image_width * cover_height
    size = tf.cond(
        taller,
        lambda: tf.stack([tf.maximum(image_height * cover_width // image_width, cover_height), cover_width]),
        lambda: tf.stack([cover_height, tf.maximum(image_width * cover_height // image_height, cover_width)]),
    )
    resized = _resize(images, size, preprocessing.interpolation)
    # Halves to the even number: torchvision's centre crop.
    top, left = tf.unstack(tf.cast(tf.round(tf.cast(size - [height, width], tf.float32) / 2.0), tf.int32))
    return resized[..., top : top + height, left : left + width, :]


def _on_white(image: tf.Tensor) -> tf.Tensor:
    """Grey, grey with opacity, RGB or RGB with opacity (the channels are dynamic) to RGB on white."""
    count = tf.shape(image)[-1]
    image = tf.ensure_shape(image, [None, None, None])
    has_opacity = tf.equal(count % 2, 0)
    color = tf.cond(has_opacity, lambda: image[..., :-1], lambda: image)
    color = tf.cond(count < 3, lambda: tf.repeat(color, 3, axis=-1), lambda: color)

    def blend() -> tf.Tensor:
        opacity = tf.cast(image[..., -1:], tf.int32)
        return tf.cast((tf.cast(color, tf.int32) * opacity + 255 * (255 - opacity) + 127) // 255, tf.uint8)

    return tf.ensure_shape(tf.cond(has_opacity, blend, lambda: color), [None, None, 3])


def _palette_bmp(contents: tf.Tensor) -> tf.Tensor:
    """A BMP of 8 bits a pixel: TensorFlow hands out the palette's indices as if they were grey."""
    indices = tf.cast(tf.io.decode_bmp(contents, channels=0)[..., 0], tf.int32)

    def field(position: int) -> tf.Tensor:
        return tf.io.decode_raw(tf.strings.substr(contents, position, 4), tf.int32)[0]

    start = 14 + field(14)
    used = field(46)
    used = tf.where(used > 0, tf.minimum(used, 256), 256)
    palette = tf.reshape(tf.io.decode_raw(tf.strings.substr(contents, start, 4 * used), tf.uint8), [-1, 4])
    return tf.gather(palette[:, 2::-1], indices)  # stored as blue, green, red, unused


def tensorflow_reads_orientation(contents: bytes) -> bool:
    """Whether a JPEG's EXIF lies where `decode_image` looks for it: in the first segment, or behind a JFIF
    header.
    """
    segment = 4 + int.from_bytes(contents[4:6], "big") if contents[2:4] == b"\xff\xe0" else 2
    is_exif = contents[segment : segment + 2] == b"\xff\xe1" and contents[segment + 4 : segment + 8] == b"Exif"
    return is_exif and segment + 8 <= _EXIF_STARTS_WITHIN


def _exif_orientation(contents: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation 1..8 of a JPEG file; 1 where it has none, or not where it should lie."""
    # Most files have none: one search spares them the walk through the bytes.
    head = tf.strings.substr(contents, 0, _EXIF_STARTS_WITHIN)
    mentions_exif = tf.strings.regex_full_match(head, r"(?s)\C*Exif\C*")
    return tf.cond(mentions_exif, lambda: _parse_exif_orientation(contents), lambda: tf.constant(1))


def _parse_exif_orientation(contents: tf.Tensor) -> tf.Tensor:
    # A segment holds at most 64 KB.
    head = tf.strings.substr(contents, 0, _EXIF_STARTS_WITHIN + 65537)
    data = tf.concat([tf.cast(tf.io.decode_raw(head, tf.uint8), tf.int32), tf.zeros([16], tf.int32)], axis=0)
    last = tf.size(data) - 1

    def at(position: Any) -> tf.Tensor:
        return tf.gather(data, tf.clip_by_value(position, 0, last))

    first_is_jfif = tf.logical_and(tf.equal(data[2], 0xFF), tf.equal(data[3], 0xE0))
    segment = tf.where(first_is_jfif, 4 + data[4] * 256 + data[5], 2)
    is_exif = tf.reduce_all(
        tf.equal(at(segment + tf.constant([0, 1, 4, 5, 6, 7])), [0xFF, 0xE1, 0x45, 0x78, 0x69, 0x66])
    )
    tiff = segment + 10
    little = tf.equal(at(tiff), 0x49)  # "II"; "MM" is big-endian

    def number(positions: Any, count: int) -> tf.Tensor:
        digits = at(positions[..., tf.newaxis] + tf.range(count))
        powers = 256 ** tf.range(count)
        return tf.reduce_sum(digits * tf.where(little, powers, tf.reverse(powers, [0])), axis=-1)

    directory = tiff + number(tiff + 4, 4)
    entries = directory + 2 + 12 * tf.range(number(directory, 2))
    is_orientation = tf.logical_and(is_exif, tf.equal(number(entries, 2), 0x0112))
    found = tf.boolean_mask(number(entries + 8, 2), is_orientation)
    return tf.concat([found, [1]], axis=0)[0]


def _orient(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    def turned() -> tf.Tensor:
        upright = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        upright = _reverse_where(upright, orientation, (2, 3, 6, 7), axis=1)
        return _reverse_where(upright, orientation, (3, 4, 7, 8), axis=0)

    is_turned = tf.logical_and(orientation >= 2, orientation <= 8)
    return tf.ensure_shape(tf.cond(is_turned, turned, lambda: image), [None, None, 3])


def _reverse_where(image: tf.Tensor, orientation: tf.Tensor, which: tuple[int, ...], axis: int) -> tf.Tensor:
    chosen = tf.reduce_any(tf.equal(orientation, which))
    return tf.cond(chosen, lambda: tf.reverse(image, [axis]), lambda: image)


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
