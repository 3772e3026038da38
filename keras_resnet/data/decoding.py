"""Image files decoded by TensorFlow operators, by the rules that `images` states: for tf.data and exported graphs."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_resnet.data.transforms import to_channels

# Where `decode_image` stops to look for the beginning of a JPEG's EXIF; behind a usual header it begins at byte 20.
_EXIF_STARTS_WITHIN = 4096

# (height, width) of an image → int32 [4]: top, left, height and width of a rectangle in it.
Choice = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


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
    return to_channels(image, channels)


def decode_jpeg_part(contents: tf.Tensor, channels: int, choose: Choice) -> tf.Tensor:
    """Decodes a rectangle of an upright JPEG file, and little of what is beside it.

    Args:
        contents: Scalar string tensor, the bytes of the file; those of a PNG are decoded as a whole.
        channels: 1 or 3.
        choose: The rectangle.

    Returns:
        uint8 tensor [height, width, channels], 0..255: to the bit what `decode_jpeg` has there.
    """

    def part() -> tf.Tensor:
        height, width = tf.unstack(tf.io.extract_jpeg_shape(contents)[:2])
        top, left, crop_height, crop_width = tf.unstack(choose(height, width))
        # The decoder derives the colour of a pixel from its neighbours', which it lacks in the outermost columns.
        first, end = tf.maximum(left - 1, 0), tf.minimum(left + crop_width + 1, width)
        window = tf.stack([top, first, crop_height, end - first])
        image = tf.image.decode_and_crop_jpeg(contents, window, channels=3, dct_method="INTEGER_ACCURATE")
        return image[:, left - first : left - first + crop_width]

    is_jpeg = tf.equal(tf.strings.substr(contents, 0, 2), b"\xff\xd8")
    image = tf.cond(is_jpeg, part, lambda: cut_out(decode_jpeg(contents, 3), choose))
    return to_channels(tf.ensure_shape(image, [None, None, 3]), channels)


def cut_out(image: tf.Tensor, choose: Choice) -> tf.Tensor:
    """Cuts a rectangle out of an image [height, width, channels]."""
    shape = tf.shape(image)
    top, left, height, width = tf.unstack(choose(shape[0], shape[1]))
    crop = image[top : top + height, left : left + width, :]
    return tf.ensure_shape(crop, [None, None, image.shape[-1]])


def decode_image(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes a JPEG, PNG, GIF, BMP or WebP file with TensorFlow operators alone.

    Args:
        contents: Scalar string tensor, the bytes of the file.
        channels: 1 (grey) or 3 (RGB).

    Returns:
        uint8 tensor [height, width, channels], 0..255, height and width dynamic. Contents that no decoder reads, and
        animated WebP files, raise tf.errors.InvalidArgumentError when the graph runs.
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
        # The extended header's flags; bit 1 says that frames follow. TensorFlow's operator writes such frames past the
        # end of its buffer, so they never reach it.
        flags = tf.cast(tf.io.decode_raw(tf.strings.substr(padded, 20, 1), tf.uint8)[0], tf.int32)
        is_animated = tf.logical_and(starts_with(b"VP8X", 12), tf.not_equal(tf.bitwise.bitwise_and(flags, 2), 0))
        return tf.cond(is_animated, refuse_animation, still_webp)

    def refuse_animation() -> tf.Tensor:
        never = tf.debugging.Assert(False, ["An animated WebP cannot be decoded. Save its first frame as an image."])
        with tf.control_dependencies([] if never is None else [never]):
            return tf.zeros([1, 1, 3], tf.uint8)

    def still_webp() -> tf.Tensor:
        return _on_white(tf.io.decode_image(contents, channels=0, expand_animations=False))

    def other() -> tf.Tensor:  # GIF, or an error that names the formats
        image = tf.io.decode_image(contents, channels=3, expand_animations=False)
        return tf.ensure_shape(image, [None, None, 3])

    padded = contents + b"\0" * 16  # substr refuses positions past the end of a short file

    def starts_with(signature: bytes, position: int = 0) -> tf.Tensor:
        return tf.equal(tf.strings.substr(padded, position, len(signature)), signature)

    # One question inside the other, so that the most frequent formats are answered first and pay for no other.
    def not_jpeg() -> tf.Tensor:
        return tf.cond(starts_with(b"\x89PNG"), png, not_png)

    def not_png() -> tf.Tensor:
        is_webp = tf.logical_and(starts_with(b"RIFF"), starts_with(b"WEBP", 8))
        return tf.cond(is_webp, webp, lambda: tf.cond(starts_with(b"BM"), bmp, other))

    image = tf.cond(starts_with(b"\xff\xd8\xff"), jpeg, not_jpeg)
    return to_channels(tf.ensure_shape(image, [None, None, 3]), channels)


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
