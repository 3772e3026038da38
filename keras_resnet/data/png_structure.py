"""Whether a PNG file is whole, told by its checksums and its unpacked rows, without a decoder.

The usual forms alone are known: not interlaced, with no chunk besides those listed here. Of any other form, and of the
least oddity, nothing is said: that file has to be decoded to find out.

Reference: https://www.w3.org/TR/png-3/
"""

import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Type of colour → its channels and the bits that each may have.
_COLORS = {0: (1, (1, 2, 4, 8, 16)), 2: (3, (8, 16)), 3: (1, (1, 2, 4, 8)), 4: (2, (8, 16)), 6: (4, (8, 16))}
_PALETTE = 3
_ASIDE = {b"gAMA": 4, b"sRGB": 1, b"pHYs": 9, b"tIME": 7}  # chunks without effect on the pixels, and their lengths
_MOST_TEXT = 1 << 16
_MOST_PIXELS = 1 << 26  # Pillow warns of more, and refuses still more
_MOST_BYTES = 1 << 26  # of unpacked rows, which are held in memory
_FILTERS = 5


def whole_png(contents: bytes) -> tuple[int, int] | None:
    """Reads the size of a PNG file of a usual form that is whole.

    Checked are the order of the chunks, the checksum of each, that the pixels can be unpacked and are as many as the
    header says, and that the file ends with the image.

    Args:
        contents: The bytes of a file.

    Returns:
        (height, width); None where the file is broken, unusual or no PNG at all.
    """
    if not contents.startswith(_SIGNATURE):
        return None
    chunks = _chunks(contents)
    if len(chunks) < 3 or chunks[0][0] != b"IHDR" or chunks[-1] != (b"IEND", b""):
        return None
    header = chunks[0][1]
    if len(header) != 13 or header[9] not in _COLORS or header[10:] != b"\0\0\0":
        return None
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits, color = header[8], header[9]
    channels, allowed = _COLORS[color]
    row = 1 + (width * channels * bits + 7) // 8  # a byte says how the row was filtered
    if bits not in allowed or not 1 <= height * width <= _MOST_PIXELS or height * row > _MOST_BYTES:
        return None
    packed = _packed_pixels(chunks[1:-1], 1 << bits if color == _PALETTE else 0)
    return (height, width) if packed and _unpacks(packed, row, height) else None


def _chunks(contents: bytes) -> list[tuple[bytes, bytes]]:
    """The kind and the data of each chunk; none where a checksum is wrong or the file does not end with a chunk."""
    found = []
    position = len(_SIGNATURE)
    while position < len(contents):
        end = position + 8 + int.from_bytes(contents[position : position + 4], "big")
        checked = contents[position + 4 : end]
        if end + 4 > len(contents) or zlib.crc32(checked) != int.from_bytes(contents[end : end + 4], "big"):
            return []
        found.append((checked[:4], checked[4:]))
        position = end + 4
    return found


def _packed_pixels(chunks: list[tuple[bytes, bytes]], colors: int) -> bytes:
    """Joins the IDAT chunks; empty where anything among the chunks is unusual.

    Args:
        chunks: Those between the first and the last.
        colors: How many a palette may have; 0 where the image has none.
    """
    kinds = [kind for kind, _ in chunks]
    parts = [data for kind, data in chunks if kind == b"IDAT"]
    if not parts or any(kind != b"IDAT" for kind in kinds[kinds.index(b"IDAT") :]):
        return b""
    before = chunks[: kinds.index(b"IDAT")]
    palette = 0
    for place, (kind, data) in enumerate(before):
        if kind == b"tEXt":
            if not 0 < data.find(b"\0") < 80 or len(data) > _MOST_TEXT:
                return b""
            continue
        if kind in kinds[:place]:
            return b""
        if kind == b"PLTE":
            palette = len(data) // 3
            is_usual = len(data) % 3 == 0 and 0 < palette <= colors
        elif kind == b"tRNS":
            is_usual = 0 < len(data) <= palette  # opacity of the colours of the palette before it
        else:
            is_usual = _ASIDE.get(kind) == len(data)
        if not is_usual:
            return b""
    return b"".join(parts) if bool(palette) == bool(colors) else b""


def _unpacks(packed: bytes, row: int, height: int) -> bool:
    unpacking = zlib.decompressobj()
    try:
        rows = unpacking.decompress(packed, row * height + 1)
    except zlib.error:
        return False
    if not unpacking.eof or unpacking.unused_data or len(rows) != row * height:
        return False
    return max(rows[::row]) < _FILTERS
