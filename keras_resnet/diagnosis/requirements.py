"""The versions that the project was tested with, read from where pip reads them: there is no second list.

A checkout's own files come first: beside them the metadata of an older installation may lie.
"""

import functools
import importlib.metadata
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DISTRIBUTION = "keras-resnet"
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Requirements:
    """What the project needs.

    Attributes:
        python: The range of Python's version, as ">=3.11,<3.14".
        base: What is always needed.
        extras: Extra → what it needs.
        commands: Extra → the command that installs it; "" for what is always needed.
    """

    python: str
    base: tuple[Requirement, ...]
    extras: dict[str, tuple[Requirement, ...]]
    commands: dict[str, str]

    def of(self, package: str) -> Requirement:
        """Returns what is needed of a package, which is its bare name where there is no rule for it."""
        everything = [*self.base, *(requirement for rows in self.extras.values() for requirement in rows)]
        wanted = canonicalize_name(package)
        return next((row for row in everything if canonicalize_name(row.name) == wanted), Requirement(package))


@functools.cache
def requirements(root: Path = _ROOT) -> Requirements:
    """Reads them from a checkout's requirement files, or from the installed package's metadata where there is none.

    Raises:
        importlib.metadata.PackageNotFoundError: There is neither.
    """
    file = root / "pyproject.toml"
    settings = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    # Beside an installed package another's file may lie.
    is_ours = settings.get("project", {}).get("name") == DISTRIBUTION
    return _of_checkout(root, settings) if is_ours else _of_installation()


def _of_checkout(root: Path, settings: dict[str, Any]) -> Requirements:
    dynamic = settings["tool"]["setuptools"]["dynamic"]
    base = dynamic["dependencies"]["file"]
    extras = {name: row["file"] for name, row in dynamic["optional-dependencies"].items()}
    return Requirements(
        python=settings["project"]["requires-python"],
        base=_read_files(root, base),
        extras={name: _read_files(root, files) for name, files in extras.items()},
        commands={name: f"pip install {_flags(files)}" for name, files in {"": base, **extras}.items()},
    )


def _flags(files: list[str]) -> str:
    return " ".join(f"-r {file}" for file in files)


def _quoted(rows: Iterable[Requirement]) -> str:
    return " ".join(f'"{row.name}{row.specifier}"' for row in rows)


def _read_files(folder: Path, files: list[str]) -> tuple[Requirement, ...]:
    lines = [line for file in files for line in (folder / file).read_text(encoding="utf-8").splitlines()]
    texts = [line.partition("#")[0].strip() for line in lines]
    return tuple(Requirement(text) for text in texts if text)


def _of_installation() -> Requirements:
    metadata = importlib.metadata.metadata(DISTRIBUTION)
    rows = [Requirement(text) for text in metadata.get_all("Requires-Dist") or []]

    def needed(extra: str) -> tuple[Requirement, ...]:
        return tuple(row for row in rows if row.marker is None or row.marker.evaluate({"extra": extra}))

    base = needed("")
    names = metadata.get_all("Provides-Extra") or []
    extras = {name: tuple(row for row in needed(name) if row not in base) for name in names}
    return Requirements(
        python=metadata["Requires-Python"],
        base=base,
        extras=extras,
        # By the packages themselves: where this one came from, nobody knows.
        commands={name: f"pip install {_quoted(rows)}" for name, rows in {"": base, **extras}.items()},
    )
