"""Checks whether a JPEG file is complete by its structure alone, without decoding it.

libjpeg carries on when the entropy-coded data is wrong. It refuses a file whose headers are wrong, that has a marker in
the wrong place, or that ends before its last marker. All of these are checked here, so libjpeg can read every file that
passes. Only the usual forms are supported (ITU-T T.81, annexes B and G: 8 bits, Huffman codes, sequential in one scan
or progressive, grey or colour). A file of any other form, or with the slightest oddity, has to be decoded to find out.
"""

import functools
import itertools
import re
from dataclasses import dataclass, field
from typing import NamedTuple

_SOF0, _SOF2, _DHT, _SOI, _EOI, _SOS, _DQT, _DRI, _APP0, _APP14, _APP15, _COM = (
    0xC0, 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0, 0xEE, 0xEF, 0xFE,
)  # fmt: skip
_MARKER = re.compile(rb"\xff([\x01-\xff])")  # in entropy-coded data, a byte 255 is followed by 0
_SAMPLINGS = (0x11, 0x12, 0x21, 0x22, 0x41)  # of luma; those of chroma are 0x11
_OF_AC = 16  # added to the number of a table for AC coefficients
_HUFFMAN_TABLES = (0, 1, 2, 3, 16, 17, 18, 19)
_MOST_PIXELS = 1 << 26  # Pillow warns about larger images, and refuses much larger ones
_MOST_SCANS = 32
_SMALL_HEADER = 2048


class JpegHeader(NamedTuple):
    """What comes before the entropy-coded data.

    Attributes:
        height: Of the stored image, before any EXIF orientation is applied.
        width: Likewise.
        is_plain: Whether there is no application data (EXIF, colour profile, …) besides the JFIF header.
        is_progressive: Whether several scans follow.
        restarts: How many restart markers the only scan of a sequential file has.
        end: Where the entropy-coded data begins.
    """

    height: int
    width: int
    is_plain: bool
    is_progressive: bool
    restarts: int
    end: int


_latest: list[tuple[bytes, JpegHeader | None]] = [(b"no file begins so", None)]  # a small header, raw and parsed


def whole_jpeg(contents: bytes) -> JpegHeader | None:
    """Reads the header of a JPEG file that is complete and of a usual form.

    Every table and parameter of the headers must be valid, the entropy-coded data must contain no stray markers, and
    the file must end with the image. The entropy-coded data itself may be damaged.

    Args:
        contents: The bytes of a file.

    Returns:
        The header; None if the file is broken, unusual or not a JPEG.
    """
    if not contents.startswith(b"\xff\xd8\xff") or not contents.endswith(b"\xff\xd9"):
        return None
    header = _header(contents)
    if header is None:
        return None
    if header.is_progressive:
        return header if _scans_are_whole(contents) else None
    start = header.end
    if header.restarts:
        numbers = itertools.islice(itertools.cycle(range(0xD0, 0xD8)), header.restarts)
        is_whole = b"".join(_MARKER.findall(contents, start)) == bytes([*numbers, _EOI])
    else:
        marker = _MARKER.search(contents, start)
        is_whole = marker is not None and start < marker.start() == len(contents) - 2
    return header if is_whole else None


def _header(contents: bytes) -> JpegHeader | None:
    # Most small files in a folder have the same header, byte for byte, or one of a few.
    head, header = _latest[0]
    if contents.startswith(head):
        return header
    scan = contents.find(b"\xff\xda", 2, _SMALL_HEADER)
    head = contents[: scan + 2 + contents[scan + 3]] if scan > 0 else b""
    header = _small_header(head)
    if header is None:
        return _walked_header(contents)
    _latest[0] = head, header
    return header


@functools.lru_cache(1024)
def _small_header(head: bytes) -> JpegHeader | None:
    return _walked_header(head)


def _walked_header(contents: bytes) -> JpegHeader | None:
    seen = _Seen()
    try:
        end = _walk_to_scan(contents, 2, seen)
    except (_UnusualError, IndexError):
        return None
    return JpegHeader(seen.height, seen.width, seen.is_plain, seen.is_progressive, _restarts(seen), end)


def _scans_are_whole(contents: bytes) -> bool:
    seen = _Seen()
    position = 2
    try:
        for _ in range(_MOST_SCANS):
            position = _walk_to_scan(contents, position, seen)
            marker = _MARKER.search(contents, position)
            if marker is None or marker.start() == position:
                return False
            position = marker.start()
            if contents[position + 1] == _EOI:
                return position == len(contents) - 2
    except (_UnusualError, IndexError):
        pass
    return False


class _UnusualError(Exception):
    """The file is broken, or of a form that is not supported here."""


@dataclass
class _Seen:
    """What the segments read so far contain."""

    height: int = 0
    width: int = 0
    is_plain: bool = True
    is_progressive: bool = False
    restart_interval: int = 0
    sampling: int = 0
    quantization_tables: set[int] = field(default_factory=set)
    huffman_tables: set[int] = field(default_factory=set)
    components: dict[int, int] = field(default_factory=dict)  # identifier → quantization table


def _require(holds: bool) -> None:
    if not holds:
        raise _UnusualError


def _walk_to_scan(contents: bytes, position: int, seen: _Seen) -> int:
    """Reads segments until a scan has begun, and returns where its entropy-coded data begins."""
    while True:
        _require(contents[position] == 0xFF)
        marker = contents[position + 1]
        end = position + 2 + (contents[position + 2] << 8 | contents[position + 3])
        segment = contents[position + 4 : end]
        _require(end >= position + 4 and end <= len(contents))
        if marker == _DQT:
            _read_quantization(segment, seen)
        elif marker == _DHT:
            seen.huffman_tables |= _huffman_tables(segment)
        elif marker in (_SOF0, _SOF2):
            _read_frame(segment, marker == _SOF2, seen)
        elif marker == _DRI:
            _require(len(segment) == 2)
            seen.restart_interval = segment[0] << 8 | segment[1]
        elif marker == _SOS:
            _read_scan(segment, seen)
            return end
        elif marker == _APP0:
            _require(segment.startswith(b"JFIF\0") and len(segment) >= 14)
        elif _APP0 < marker <= _APP15:
            seen.is_plain = False
            if marker == _APP14 and segment.startswith(b"Adobe"):  # says which colours the components are
                _require(len(segment) == 12 and segment[11] == 1)
        else:
            _require(marker == _COM)
        position = end


def _read_quantization(segment: bytes, seen: _Seen) -> None:
    tables = segment[::65]
    _require(len(segment) == 65 * len(tables) > 0 and max(tables) < 4)
    seen.quantization_tables.update(tables)


@functools.lru_cache(256)  # nearly all files use the tables in annex K of the standard
def _huffman_tables(segment: bytes) -> frozenset[int]:
    found = set()
    while segment:
        table, counts = segment[0], segment[1:17]
        symbols = segment[17 : 17 + sum(counts)]
        _require(table in _HUFFMAN_TABLES and len(counts) == 16 and 0 < sum(counts) == len(symbols) <= 256)
        _require(table >= _OF_AC or max(symbols) < 16)
        code = 0
        for bits, count in enumerate(counts, 1):
            code = 2 * code + count
            _require(code < 1 << bits)  # the codes fit, and none is all ones
        found.add(table)
        segment = segment[17 + len(symbols) :]
    return frozenset(found)


def _read_frame(segment: bytes, is_progressive: bool, seen: _Seen) -> None:
    _require(not seen.components and len(segment) >= 9 and segment[0] == 8 and segment[5] in (1, 3))
    _require(len(segment) == 6 + 3 * segment[5])
    seen.height, seen.width = segment[1] << 8 | segment[2], segment[3] << 8 | segment[4]
    _require(0 < seen.height * seen.width <= _MOST_PIXELS)
    seen.components = dict(zip(segment[6::3], segment[8::3], strict=True))
    samplings = segment[7::3]
    _require(len(seen.components) == segment[5] and samplings[0] in _SAMPLINGS and set(samplings[1:]) <= {0x11})
    seen.sampling = samplings[0]
    seen.is_progressive = is_progressive


def _read_scan(segment: bytes, seen: _Seen) -> None:
    """Checks the header of a scan: its components and coefficients, and that the tables it uses are defined."""
    _require(len(segment) >= 6 and len(segment) == 4 + 2 * segment[0])
    names, tables = segment[1:-3:2], segment[2:-3:2]
    first, last, approximation = segment[-3:]
    of_dc, of_ac = {table >> 4 for table in tables}, {table & 15 | _OF_AC for table in tables}
    if seen.is_progressive:
        before, now = approximation >> 4, approximation & 15
        _require(seen.restart_interval == 0 and now <= 13 and before in (0, now + 1))
        _require(list(names) == [name for name in seen.components if name in names])
        _require(first <= last <= 63 and len(names) == 1 if first else last == 0)
        needed = of_ac if first else of_dc if before == 0 else set()
    else:
        _require((first, last, approximation) == (0, 63, 0) and list(names) == list(seen.components))
        needed = of_dc | of_ac
    _require(needed <= seen.huffman_tables and seen.quantization_tables >= set(seen.components.values()))


def _restarts(seen: _Seen) -> int:
    if seen.restart_interval == 0:
        return 0
    is_grey = len(seen.components) == 1  # a single component is not interleaved, whatever its sampling
    across, down = (1, 1) if is_grey else (seen.sampling >> 4, seen.sampling & 15)
    units = -(-seen.width // (8 * across)) * -(-seen.height // (8 * down))
    return -(-units // seen.restart_interval) - 1
