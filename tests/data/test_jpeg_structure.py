"""The check of a JPEG's structure, which must pass no file that the decoders refuse."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_resnet.data import scanning
from keras_resnet.data.jpeg_structure import whole_jpeg
from keras_resnet.data.scanning import scan_files

TURNED = Image.Exif()
TURNED[0x0112] = 6
PROFILE = b"a colour profile of no meaning" * 9


def jpeg(size=(37, 26), mode="RGB", seed=0, **options):
    """The bytes of a JPEG file of a coarse pattern with noise."""
    random = np.random.default_rng(seed)
    pattern = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(pattern) + random.integers(-20, 21, (size[1], size[0], 1))
    file = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


USUAL = {
    "color": jpeg(),
    "444": jpeg(subsampling=0),
    "422": jpeg(subsampling=1, quality=98),
    "one pixel": jpeg((1, 1)),
    "grey": jpeg(mode="L"),
    "optimized codes": jpeg(optimize=True, quality=30),
    "comment": jpeg(comment=b"the word Exif alone"),
    "turned": jpeg(exif=TURNED),
    "profile": jpeg(icc_profile=PROFILE),
    "progressive": jpeg(progressive=True),
    "progressive 444": jpeg(progressive=True, subsampling=0, quality=98),
    "progressive grey": jpeg(mode="L", progressive=True),
    "restarts": jpeg(restart_marker_blocks=1),
    "restarts 422": jpeg((100, 60), subsampling=1, restart_marker_blocks=3),
    "restarts by row": jpeg(mode="L", restart_marker_rows=1),
    "one restart interval": jpeg((16, 16), restart_marker_blocks=9),
}


def segment(contents, marker):
    """Where the first segment of a type begins and ends."""
    position = 2
    while True:
        end = position + 2 + int.from_bytes(contents[position + 2 : position + 4], "big")
        if contents[position + 1] == marker:
            return position, end
        position = end


def changed(contents, marker, offset, value):
    """The file with one byte of the first segment of a type changed; the offset counts from its marker."""
    position = segment(contents, marker)[0] + offset
    return contents[:position] + bytes([value]) + contents[position + 1 :]


def without(contents, marker):
    start, end = segment(contents, marker)
    return contents[:start] + contents[end:]


def inserted(contents, position, new):
    return contents[:position] + new + contents[position:]


def adobe(transform):
    """A file with the segment in which Adobe's programs say what the three components are."""
    return inserted(USUAL["color"], 2, b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform]))


COLOR, PROGRESSIVE, RESTARTS = USUAL["color"], USUAL["progressive"], USUAL["restarts"]
PIXELS = segment(COLOR, 0xDA)[1]  # where the entropy-coded data begins
UNUSUAL = {
    "empty": b"",
    "text": b"<html>404</html>",
    "only the first and last markers": b"\xff\xd8\xff\xd9",
    "cmyk": jpeg(mode="CMYK"),
    "red, green and blue": jpeg(keep_rgb=True),
    "adobe's colours": adobe(0),
    "12 bits": changed(COLOR, 0xC0, 4, 12),
    "extended": changed(COLOR, 0xC0, 1, 0xC1),
    "lossless": changed(COLOR, 0xC0, 1, 0xC3),
    "arithmetic": changed(COLOR, 0xC0, 1, 0xC9),
    "no rows": changed(changed(COLOR, 0xC0, 5, 0), 0xC0, 6, 0),
    "no columns": changed(changed(COLOR, 0xC0, 7, 0), 0xC0, 8, 0),
    "a billion pixels": changed(changed(COLOR, 0xC0, 5, 200), 0xC0, 7, 200),
    "odd sampling": changed(COLOR, 0xC0, 11, 0x31),
    "no sampling": changed(COLOR, 0xC0, 11, 0x00),
    "two frames": inserted(COLOR, segment(COLOR, 0xC0)[1], COLOR[slice(*segment(COLOR, 0xC0))]),
    "no frame": without(COLOR, 0xC0),
    "a missing quantization table": without(COLOR, 0xDB),
    "a missing Huffman table": without(COLOR, 0xC4),
    "no scan": without(COLOR, 0xDA),
    # The table still has 12 codes, but different numbers of codes of 1, 3, 8 and 9 bits.
    "codes that do not fit": changed(changed(COLOR, 0xC4, 5, 3), 0xC4, 7, 2),
    "a code of all ones": changed(changed(COLOR, 0xC4, 12, 2), 0xC4, 13, 0),
    "a scan of an unknown component": changed(COLOR, 0xDA, 5, 77),
    "a scan with undefined Huffman tables": changed(COLOR, 0xDA, 6, 0x33),
    "a scan of some coefficients": changed(COLOR, 0xDA, 12, 5),
    "a progressive scan with a wrong last coefficient": changed(PROGRESSIVE, 0xDA, 12, 9),
    "a progressive scan with a wrong approximation": changed(PROGRESSIVE, 0xDA, 13, 0x4F),
    "a byte between segments": inserted(COLOR, segment(COLOR, 0xC0)[0], b"\0"),
    "a segment beyond the end": changed(COLOR, 0xDA, 2, 0xFF),
    "trailing zeros": COLOR + bytes(9),
    "trailing text": COLOR + b"text",
    "a second file at the end": COLOR + COLOR,
    "no pixels": COLOR[:PIXELS] + b"\xff\xd9",
    "one restart marker too many": inserted(RESTARTS, len(RESTARTS) - 2, b"\xff\xd0"),
    "one restart marker too few": RESTARTS[: RESTARTS.index(b"\xff\xd1")] + RESTARTS[RESTARTS.index(b"\xff\xd2") :],
    "restart markers without an interval": without(RESTARTS, 0xDD),
    **{
        f"marker {marker:02X} among the pixels of {name}": inserted(base, len(base) - 20, bytes([0xFF, marker]))
        for name, base in {"one scan": COLOR, "many": PROGRESSIVE}.items()
        for marker in (0x01, 0x02, 0xC0, 0xC4, 0xC8, 0xD0, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xE1, 0xFE, 0xFF)
    },
}


def written(folder, files):
    paths = [folder / f"{number}.jpg" for number in range(len(files))]
    for path, contents in zip(paths, files, strict=True):
        path.write_bytes(contents)
    return [str(path) for path in paths]


@pytest.fixture(params=["TensorFlow", "Pillow"])
def decoder(request, monkeypatch):
    """Both decoders: Pillow decodes where TensorFlow is not installed."""
    monkeypatch.setattr(scanning, "has_tensorflow", lambda: request.param == "TensorFlow")


@pytest.mark.parametrize("name", USUAL)
def test_usual_files_are_recognized_without_decoding(name):
    header = whole_jpeg(USUAL[name])
    with Image.open(io.BytesIO(USUAL[name])) as image:
        assert header is not None
        assert (header.width, header.height) == image.size
        assert header.is_plain == (not {"exif", "icc_profile"} & set(image.info))
    assert whole_jpeg(USUAL[name]) == header  # this time the header is cached


def test_adobe_files_with_the_usual_colours_are_recognized():
    header = whole_jpeg(adobe(1))
    assert header is not None
    assert not header.is_plain


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_and_broken_files_are_left_to_the_decoder(name):
    assert whole_jpeg(UNUSUAL[name]) is None


def test_no_truncated_file_passes():
    for contents in USUAL.values():
        assert not any(whole_jpeg(contents[:end]) for end in range(len(contents)))


def test_both_checks_agree_on_complete_unusual_and_truncated_files(tmp_path, decoder):
    truncated = [contents[: len(contents) * part // 7] for contents in USUAL.values() for part in range(1, 7)]
    paths = written(tmp_path, [*USUAL.values(), adobe(1), *UNUSUAL.values(), *truncated])
    by_structure, decoded = scan_files(paths), scan_files(paths, check="decode")
    assert by_structure == decoded
    assert not any(file.problem for file in decoded[: len(USUAL)])
    assert all(file.problem for file in decoded[-len(truncated) :])


def test_both_checks_agree_on_damaged_files(tmp_path, decoder):
    """Bytes of headers and pixels are changed, removed or zeroed, or a marker is inserted; some files stay valid."""
    random = np.random.default_rng(0)
    bases = list(USUAL.values())
    files = []
    for number in range(1600):
        contents = bytearray(bases[number % len(bases)])
        last = len(contents) - 2
        place = int(random.integers(2, last))
        end = min(place + int(random.integers(1, 40)), last)
        kind = number // len(bases) % 6
        if kind == 0:
            contents[place] = random.integers(256)
        elif kind == 1:
            contents[place:end] = random.bytes(end - place)
        elif kind == 2:
            contents[place:end] = bytes(end - place)
        elif kind == 3:
            del contents[place:end]
        elif kind == 4:
            contents[place:place] = bytes([0xFF, random.integers(1, 256)])
        else:
            contents[place] ^= 1 << int(random.integers(8))
        files.append(bytes(contents))
    paths = written(tmp_path, files)
    by_structure, decoded = scan_files(paths), scan_files(paths, check="decode")
    assert by_structure == decoded
    known = sum(whole_jpeg(contents) is not None for contents in files)
    refused = sum(file.problem is not None for file in decoded)
    assert min(known, refused) > 300, (known, refused)


def test_pixels_changed_without_creating_a_marker_pass_both_checks(tmp_path):
    """libjpeg decodes a wrong picture and reports no error, so no file is named."""
    base = jpeg((200, 150))
    start = segment(base, 0xDA)[1] + 50
    zeros = base[:start] + bytes(300) + base[start + 300 :]
    lost = base[:start] + base[start + 300 :]
    assert None not in (whole_jpeg(zeros), whole_jpeg(lost))
    paths = written(tmp_path, [zeros, lost])
    for check in ("structure", "decode"):
        assert [file.problem for file in scan_files(paths, check=check)] == [None, None]


def test_a_file_with_a_usual_header_is_not_decoded(tmp_path, monkeypatch):
    paths = written(tmp_path, list(USUAL.values()))
    decoded = scan_files(paths, check="decode")

    def refuse(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr(scanning, "_jpeg_problems", lambda files: [refuse() for _ in files])
    monkeypatch.setattr(Image.Image, "load", refuse)
    assert scan_files(paths) == decoded
    assert [file.length for file in decoded] == [Path(path).stat().st_size for path in paths]
