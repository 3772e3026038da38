"""What atomic writes need of the system beyond renaming, and where the cache lies."""

import ctypes
import os
import shutil
from pathlib import Path

CACHE_VARIABLE = "KERAS_RESNET_CACHE"


def cache_directory() -> Path:
    """Where downloaded weights and indexes of files are kept: $KERAS_RESNET_CACHE, or ~/.cache/keras_resnet."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "keras_resnet"


def exchange(first: Path, second: Path) -> bool:
    """Lets two names change places in one step; False where system or file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # not Linux, or a C library without it
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0


def flush_to_disk(path: Path) -> None:
    """Waits until a file's content is on the disk."""
    # Without it a power cut after the rename may leave an empty file under the final name.
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def is_running(process: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def remove(path: Path) -> None:
    """Removes a file, a link, or a folder with all that it holds."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
