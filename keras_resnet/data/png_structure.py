"""Checks whether a PNG file is complete by its checksums and its decompressed rows, without a decoder.

Only the usual forms are supported: not interlaced, with no chunks other than those listed here. A file of any other
form, or with the slightest oddity, has to be decoded to find out.

Reference: https://www.w3.org/TR/png-3/
"""

import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colour type → number of channels, and the bits that each may have.
_COLORS = {0: (1, (1, 2, 4, 8, 16)), 2: (3, (8, 16)), 3: (1, (1, 2, 4, 8)), 4: (2, (8, 16)), 6: (4, (8, 16))}
_PALETTE = 3
_ASIDE = {b"gAMA": 4, b"sRGB": 1, b"pHYs": 9, b"tIME": 7}  # chunks that do not affect the pixels, and their lengths
_MOST_TEXT = 1 << 16
_MOST_PIXELS = 1 << 26  # Pillow warns about larger images, and refuses much larger ones
_MOST_BYTES = 1 << 26  # of decompressed rows, which are held in memory
_FILTERS = 5


def whole_png(contents: bytes) -> tuple[int, int] | None:
    """Reads the size of a PNG file that is complete and of a usual form.

    The order of the chunks and every checksum must be right, the pixels must decompress to as many as the header says,
    and the file must end with the image.

    Args:
        contents: The bytes of a file.

    Returns:
        (height, width); None if the file is broken, unusual or not a PNG.
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
    row = 1 + (width * channels * bits + 7) // 8  # the first byte says how the row was filtered
    if bits not in allowed or not 1 <= height * width <= _MOST_PIXELS or height * row > _MOST_BYTES:
        return None
    packed = _packed_pixels(chunks[1:-1], 1 << bits if color == _PALETTE else 0)
    return (height, width) if packed and _unpacks(packed, row, height) else None


def _chunks(contents: bytes) -> list[tuple[bytes, bytes]]:
    """Returns the type and data of each chunk; none if a checksum is wrong or the file does not end with a chunk."""
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
    """Joins the IDAT chunks; empty if any of the chunks is unusual.

    Args:
        chunks: Those between the first and the last.
        colors: How many colours the palette may have; 0 if the image has no palette.
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
            is_usual = 0 < len(data) <= palette  # opacity of the colours in the palette, which comes first
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
