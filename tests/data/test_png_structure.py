"""The check of a PNG's structure, which must pass no file that the decoders refuse."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from keras_resnet.data import scanning
from keras_resnet.data.png_structure import whole_png
from keras_resnet.data.scanning import scan_files

SIGNATURE = b"\x89PNG\r\n\x1a\n"
NOTE = PngImagePlugin.PngInfo()
NOTE.add_text("Title", "a drawing")


def png(mode="RGB", size=(23, 17), **options):
    """The bytes of a PNG file of random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 251)
    else:
        image = image.quantize(11) if mode == "P" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


USUAL = {mode: png(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")} | {
    "one pixel": png(size=(1, 1)),
    "a transparent color": png("P", transparency=2),
    "notes": png(pnginfo=NOTE, dpi=(72, 72)),
    "uncompressed": png(compress_level=0),
}


def chunks(contents):
    position = len(SIGNATURE)
    while position < len(contents):
        end = position + 8 + int.from_bytes(contents[position : position + 4], "big")
        yield contents[position + 4 : position + 8], contents[position + 8 : end]
        position = end + 4


def joined(parts):
    """A file of these chunks, with correct checksums."""
    packed = (
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in parts
    )
    return SIGNATURE + b"".join(packed)


def replaced(contents, kind, change):
    """The file with the data of all chunks of a type changed; None removes the chunk."""
    changed = ((name, change(data) if name == kind else data) for name, data in chunks(contents))
    return joined((name, data) for name, data in changed if data is not None)


def added(contents, place, *new):
    parts = list(chunks(contents))
    return joined([*parts[:place], *new, *parts[place:]])


def repacked(contents, change):
    return replaced(contents, b"IDAT", lambda data: zlib.compress(change(zlib.decompress(data))))


def with_byte(rows, place):
    return rows[:place] + b"\xee" + rows[place + 1 :]


def header(place, value):
    return replaced(USUAL["RGB"], b"IHDR", lambda data: data[:place] + bytes([value]) + data[place + 1 :])


RGB, PALETTE = USUAL["RGB"], USUAL["P"]
UNUSUAL = {
    "empty": b"",
    "signature alone": SIGNATURE,
    "interlaced": header(12, 1),
    "3 bits": header(8, 3),
    "an unknown color type": header(9, 5),
    "an unknown compression": header(10, 1),
    "an unknown filter method": header(11, 1),
    "a wrong width": header(3, 24),
    "no columns": header(3, 0),
    "fewer rows": header(7, 16),
    "too many pixels": header(0, 1),
    "a wrong checksum": RGB[:29] + bytes([RGB[29] ^ 1]) + RGB[30:],
    "a changed pixel": RGB[:-30] + bytes([RGB[-30] ^ 1]) + RGB[-29:],
    "no end": replaced(RGB, b"IEND", lambda data: None),
    "trailing bytes": RGB + bytes(3),
    "no pixels": replaced(RGB, b"IDAT", lambda data: None),
    "a missing pixel byte": repacked(RGB, lambda rows: rows[:-1]),
    "an extra pixel byte": repacked(RGB, lambda rows: rows + b"\0"),
    "an unknown filter": repacked(RGB, lambda rows: b"\5" + rows[1:]),
    "a trailing byte in the pixel data": replaced(RGB, b"IDAT", lambda data: data + b"\0"),
    "damaged compressed pixels": replaced(RGB, b"IDAT", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "pixel chunks that are not adjacent": added(RGB, 2, (b"tEXt", b"a\0b"), (b"IDAT", b"")),
    "no palette": replaced(PALETTE, b"PLTE", lambda data: None),
    "half a color": replaced(PALETTE, b"PLTE", lambda data: data[:-1]),
    "a palette in an RGB image": added(RGB, 1, (b"PLTE", bytes(9))),
    "two headers": added(RGB, 1, next(chunks(RGB))),
    "a transparent color without a palette": added(RGB, 1, (b"tRNS", bytes(6))),
    "more transparent colors than colors": added(PALETTE, 2, (b"tRNS", bytes(200))),
    "a short gamma": added(RGB, 1, (b"gAMA", bytes(3))),
    "a profile": png(icc_profile=b"no profile"),
    "an unknown chunk": added(RGB, 1, (b"ABCD", b"")),
    "a note without a name": added(RGB, 1, (b"tEXt", b"\0text")),
    "a note before the header": added(RGB, 0, (b"tEXt", b"a\0b")),
}


@pytest.fixture(params=["TensorFlow", "Pillow"])
def decoder(request, monkeypatch):
    """Both decoders: Pillow decodes where TensorFlow is not installed."""
    monkeypatch.setattr(scanning, "has_tensorflow", lambda: request.param == "TensorFlow")


def assert_both_checks_agree(folder, files):
    paths = [folder / f"{number}.png" for number in range(len(files))]
    for path, contents in zip(paths, files, strict=True):
        path.write_bytes(contents)
    names = [str(path) for path in paths]
    decoded = scan_files(names, check="decode")
    assert scan_files(names) == decoded
    return decoded


@pytest.mark.parametrize("name", USUAL)
def test_usual_files_are_recognized_without_decoding(name):
    with Image.open(io.BytesIO(USUAL[name])) as image:
        assert whole_png(USUAL[name]) == (image.height, image.width)


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_and_broken_files_are_left_to_the_decoder(name):
    assert whole_png(UNUSUAL[name]) is None


def test_no_truncated_file_passes():
    for contents in USUAL.values():
        assert not any(whole_png(contents[:end]) for end in range(len(contents)))


def test_both_checks_agree_on_complete_and_unusual_files(tmp_path, decoder):
    decoded = assert_both_checks_agree(tmp_path, [*USUAL.values(), *UNUSUAL.values()])
    assert not any(file.problem for file in decoded[: len(USUAL)])


def test_both_checks_agree_on_wrong_contents_with_correct_checksums(tmp_path, decoder):
    """The checksums are correct, so the contents of the chunks decide."""
    random = np.random.default_rng(0)
    kinds = (b"gAMA", b"sRGB", b"pHYs", b"tIME", b"tRNS")
    files = []
    for contents in list(USUAL.values()) * 40:
        parts = list(chunks(contents))
        place = int(random.integers(len(parts)))
        kind, data = parts[place]
        at = int(random.integers(len(data) + 1))
        way = int(random.integers(4))
        if way == 0:
            parts[place] = kind, data[:at]
        elif way == 1:
            parts[place] = kind, data[:at] + random.bytes(1) + data[at + 1 :]
        elif way == 2:
            parts.insert(place, (kinds[random.integers(5)], random.bytes(int(random.choice([1, 4, 7, 9])))))
        else:  # a filter, a pixel, or a color beyond the palette
            share = random.random()
            parts = chunks(repacked(contents, lambda rows, share=share: with_byte(rows, int(share * len(rows)))))
        files.append(joined(parts))
    decoded = assert_both_checks_agree(tmp_path, files)
    known = sum(whole_png(contents) is not None for contents in files)
    refused = sum(file.problem is not None for file in decoded)
    assert min(known, refused) > 60, (known, refused)
