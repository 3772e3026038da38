"""Zip archives from users: what damage raises, and sizes that are checked before anything is unpacked."""

import zipfile
import zlib

# Settings and ledgers take kilobytes; 22,000 class names about one megabyte.
MAX_JSON_BYTES = 16 << 20

# What Python's zipfile, zlib and NumPy raise on a damaged archive, depending on the byte that is wrong: a bad
# directory, an unknown method (NotImplementedError), an "encrypted" member (RuntimeError), a size in the terabytes.
DAMAGED_ARCHIVE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    RuntimeError,
    MemoryError,
    zlib.error,
    zipfile.BadZipFile,
)


def check_sizes(archive: zipfile.ZipFile, *, free_bytes: int = MAX_JSON_BYTES) -> None:
    """Refuses a zip archive that claims to unpack to far more than it holds, before anything is unpacked.

    Args:
        archive: The archive.
        free_bytes: What it may claim in any case.

    Raises:
        zipfile.BadZipFile: It claims more than 100 times its packed size.
    """
    packed = sum(member.compress_size for member in archive.infolist())
    claimed = sum(member.file_size for member in archive.infolist())
    if claimed > 100 * packed + free_bytes:
        raise zipfile.BadZipFile(f"it claims {megabytes(claimed)} in {megabytes(packed)}")


def read_member(archive: zipfile.ZipFile, name: str) -> bytes | None:
    """Returns a text of an archive; None where there is no such member.

    Raises:
        zipfile.BadZipFile: It is larger than any text that belongs there.
    """
    if name not in archive.namelist():
        return None
    size = archive.getinfo(name).file_size
    if size > MAX_JSON_BYTES:
        raise zipfile.BadZipFile(f"{name} has {megabytes(size)}")
    return archive.read(name)


def megabytes(count: int) -> str:
    """Returns a number of bytes as people read it."""
    return f"{count / 1e6:,.1f} MB"
