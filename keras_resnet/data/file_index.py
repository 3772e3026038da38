"""What was found out about files, kept until they change, so that the next start need not read them again.

A file counts as unchanged while its size and its times of modification and of status change are the same to the
nanosecond. A clock is coarser than that: a file can be written twice within one of its ticks. So what was learned of a
file that had been changed within the last `SETTLED_NS` before is not kept; the next start reads it again.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_resnet.filesystem import cache_directory, flush_to_disk

SETTLED_NS = 2_500_000_000  # FAT counts in steps of two seconds, the coarsest clock of a file system in use

# Size in bytes, time of modification and of status change in ns. The last one cannot be set back.
Stamp = tuple[int, int, int]


def looked_at(paths: Sequence[str]) -> tuple[list[Stamp | None], int]:
    """Looks at files before they are read.

    Returns:
        (the stamp of each, None where there is no such file, and when the look began, ns)
    """
    began = time.time_ns()
    return [_stamp(path) for path in paths], began


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


class FileIndex:
    """Rows of values about the files of a folder; an unreadable or foreign index counts as empty.

    Args:
        kind: What the rows tell, a word of its own for each kind.
        folder: The folder.
        version: What the rows depend on besides the files; another one makes all of them void.
    """

    def __init__(self, kind: str, folder: str | os.PathLike[str], version: str):
        self._folder = os.path.realpath(folder)
        self._given = os.fspath(folder).rstrip("/") + "/"
        self._version = version
        self.path = _index_path(kind, self._folder)
        self._rows: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            stored = json.loads(self.path.read_bytes())
            if stored["version"] == version and stored["folder"] == self._folder and isinstance(stored["files"], dict):
                self._rows = stored["files"]

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, path: str, stamp: Stamp | None) -> list[Any] | None:
        """Returns what is known of a file that has not changed since; else None."""
        row = self._rows.get(self._name(path))
        if stamp is None or not isinstance(row, list) or row[:3] != list(stamp):
            return None
        return row[3:]

    def save(self, rows: Mapping[str, tuple[Stamp | None, Sequence[Any]]], looked: int) -> None:
        """Keeps rows in place of all that were kept before.

        Args:
            rows: Path → (its stamp from before it was read, its values).
            looked: When the stamps were taken, ns.
        """
        settled = {
            self._name(path): [*stamp, *values]
            for path, (stamp, values) in rows.items()
            if stamp is not None and max(stamp[1:]) < looked - SETTLED_NS
        }
        if not settled and not self._rows:
            return
        text = json.dumps({"version": self._version, "folder": self._folder, "files": settled}, separators=(",", ":"))
        temporary = self.path.with_name(f".{secrets.token_hex(4)}-{self.path.name}")
        # Where nothing can be kept, the next start takes as long as this one.
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_text(text)
                flush_to_disk(temporary)
                os.replace(temporary, self.path)
            finally:
                temporary.unlink(missing_ok=True)

    def _name(self, path: str) -> str:
        return path.removeprefix(self._given)


def forget(kind: str, folder: str | os.PathLike[str]) -> None:
    """Removes what is kept about a folder."""
    with contextlib.suppress(OSError):
        _index_path(kind, os.path.realpath(folder)).unlink(missing_ok=True)


def _index_path(kind: str, folder: str) -> Path:
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
    return cache_directory() / "indexes" / f"{kind}-{name}.json"
