"""What lies in a folder that is served: models, their versions, and the files that can answer for each.

The layout is TensorFlow Serving's, with what `export.py` writes beside it: a folder for each version, named by its
number. .tflite files may lie in it, or beside it: those belong to the version that `export.py` writes.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keras_resnet.data.images import is_shown
from keras_resnet.export.formats import FORMATS, SAVED_MODEL_VERSION

_ORDER = list(FORMATS)


@dataclass(frozen=True)
class ServableFile:
    """A SavedModel or a .tflite file.

    Attributes:
        format: Its row of `FORMATS`, or a .tflite file's own name without the suffix.
        path: The folder or file.
    """

    format: str
    path: Path

    @property
    def runtime(self) -> str:
        """What runs it, a key of `runtimes.OPENERS`."""
        return "tflite" if self.path.suffix == ".tflite" else "saved_model"


@dataclass(frozen=True)
class Version:
    """A version as it lies on the disk.

    Attributes:
        files: What can answer for it, the most exact first.
        state: Names, sizes and times of all its files: another state is another model.
    """

    files: tuple[ServableFile, ...]
    state: tuple


def models_at(path: Path) -> dict[str, Path]:
    """Returns name → path of the models at a path: one, or those of a folder of exports."""
    if versions_at(path):
        is_version = path.is_dir() and path.resolve().name.isdigit()
        return {path.resolve().parent.name if is_version else path.resolve().name.removesuffix(".tflite"): path}
    if not path.is_dir():
        return {}
    inside = sorted(child for child in path.iterdir() if child.is_dir() and is_shown(child.name))
    return {child.name: child for child in inside if versions_at(child)}


def versions_at(path: Path) -> dict[int, Version]:
    """Returns the versions of the model at a path; none where it has gone.

    Args:
        path: A .tflite file, a SavedModel, a folder with .tflite files, or a folder with a folder for each version.

    Returns:
        Number → version.
    """
    found: dict[int, list[ServableFile]] = {}
    try:
        if path.is_file():
            if path.suffix == ".tflite":
                found[int(SAVED_MODEL_VERSION)] = [ServableFile(path.stem, path)]
        elif path.is_dir():
            own_number = path.resolve().name
            number = int(own_number) if own_number.isdigit() else int(SAVED_MODEL_VERSION)
            for version, file in _files_in(path, number):
                found.setdefault(version, []).append(file)
        return {number: Version(_ordered(files), _state(files)) for number, files in found.items()}
    except OSError:  # it is being replaced at this moment
        return {}


def _files_in(folder: Path, number: int) -> Iterator[tuple[int, ServableFile]]:
    if (folder / "saved_model.pb").is_file():
        yield number, ServableFile("saved_model", folder)
    for file in folder.glob("*.tflite"):
        if is_shown(file.name) and file.is_file():
            yield number, ServableFile(file.stem, file)
    for parent, name in ((folder, "saved_model"), (folder / "bfloat16", "saved_model_bfloat16")):
        if not parent.is_dir():
            continue
        for child in parent.iterdir():
            if not (child.name.isdigit() and child.is_dir()):
                continue
            if (child / "saved_model.pb").is_file():
                yield int(child.name), ServableFile(name, child)
            for file in child.glob("*.tflite"):
                if is_shown(file.name) and file.is_file():
                    yield int(child.name), ServableFile(file.stem, file)


def _ordered(files: list[ServableFile]) -> tuple[ServableFile, ...]:
    def place(file: ServableFile) -> tuple:
        return (_ORDER.index(file.format) if file.format in _ORDER else len(_ORDER), os.fspath(file.path))

    return tuple(sorted(files, key=place))


def _state(files: list[ServableFile]) -> tuple:
    seen = []
    for file in files:
        inside = sorted(file.path.rglob("*")) if file.path.is_dir() else [file.path]
        for path in inside:
            found = path.stat()
            # The number of the file tells a replaced folder whose files have the same sizes and times.
            seen.append((os.fspath(path), found.st_ino, found.st_size, found.st_mtime_ns))
    return tuple(sorted(seen))
