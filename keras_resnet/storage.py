"""Files that are either whole or absent: atomic writes, and a model stored with its preprocessing.

Everything is written under a temporary name in the same folder and renamed at the end, so that an interrupted command
leaves the old artifact or the new one, never half of it. Nothing here reads or writes pickles.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_resnet.archives import DAMAGED_ARCHIVE, MAX_JSON_BYTES, check_sizes, megabytes, read_member
from keras_resnet.errors import UserError
from keras_resnet.filesystem import exchange, flush_to_disk, is_running, remove
from keras_resnet.models.config_files import config_from_dict, config_to_dict
from keras_resnet.models.deep_graphs import deep_graphs

if TYPE_CHECKING:
    import keras

    from keras_resnet.data.preprocessing import Preprocessing
    from keras_resnet.models.config import ResNetConfig

# Members of a .keras file (a zip archive): its preprocessing, and what its network was built from. Keras ignores
# members that it does not know.
PREPROCESSING_MEMBER = "preprocessing.json"
CONFIG_MEMBER = "network.json"

# Names of what is being written: ".HOST-PROCESS-TOKEN.tmp-NAME", and ".old-NAME" for what it replaces.
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
_UNFINISHED = re.compile(r"\.([0-9a-f]{6})-(\d+)-[0-9a-f]{8}\.(tmp|old)-(.+)", re.DOTALL)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` at the end, removes it on an error.

    Args:
        path: Where the file shall be. An existing file is replaced. Missing folders are made.

    Yields:
        The temporary path, with the suffix of `path`.

    Raises:
        UserError: The folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(_unfinished_name("tmp", path.name))
    with _named_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, path.name)
        try:
            yield temporary
            flush_to_disk(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; renames it to `path` at the end, removes it on an error.

    Args:
        path: Where the folder shall be.
        overwrite: Whether an existing folder may be replaced.

    Yields:
        The temporary folder, empty.

    Raises:
        UserError: `path` exists and `overwrite` is False, or the folder above cannot be written.
    """
    path = Path(path)
    sweep(path.parent, path.name)
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already. Choose another place or allow it to be overwritten.")
    temporary = path.with_name(_unfinished_name("tmp", path.name))
    retired = path.with_name(_unfinished_name("old", path.name))
    with _named_os_errors(path):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if path.exists() and not exchange(temporary, path):
                # In two steps then: the old one steps aside first, and `sweep` brings it back after a kill in between.
                os.replace(path, retired)
                try:
                    os.replace(temporary, path)
                except OSError:
                    os.replace(retired, path)
                    raise
            elif not path.exists():
                os.replace(temporary, path)
        finally:
            remove(temporary)
            if path.exists():
                remove(retired)


def sweep(directory: str | os.PathLike[str], name: str | None = None) -> None:
    """Removes what killed processes of this machine were writing, and brings back what they were replacing.

    Args:
        directory: The folder to look in.
        name: Only what stands for this file or folder; default: everything.
    """
    directory = Path(directory)
    with contextlib.suppress(OSError):
        for entry in list(directory.iterdir()):
            found = _UNFINISHED.fullmatch(entry.name)
            if found is None or found[1] != _HOST or is_running(int(found[2])) or name not in (None, found[4]):
                continue
            target = directory / found[4]
            if found[3] == "old" and not target.exists():
                os.replace(entry, target)
            else:
                remove(entry)


def is_unfinished(name: str) -> bool:
    """Whether a file's or folder's name is one that is written under before the rename."""
    return _UNFINISHED.fullmatch(name) is not None


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 text file atomically.

    Args:
        path: The file; replaced when it exists.
        text: Its content.

    Raises:
        UserError: The folder cannot be written.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a JSON file atomically, indented, with a newline at the end.

    Args:
        path: The file; replaced when it exists.
        value: What JSON can hold. NaN and infinity are refused by a ValueError: they are no JSON.

    Raises:
        UserError: The folder cannot be written.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: There is no such file, or it is not JSON; the message names it.
    """
    try:
        size = os.path.getsize(path)
        if size > MAX_JSON_BYTES:
            raise UserError(f"{path} must have at most {megabytes(MAX_JSON_BYTES)}, got {megabytes(size)}.")
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.") from None


def append_row(path: str | os.PathLike[str], row: Mapping[str, Any]) -> None:
    """Appends one row to a CSV file, see `append_rows`."""
    append_rows(path, [row])


def append_rows(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Appends rows to a CSV file, which gets a header when it is new. All of them are written, or none.

    Args:
        path: The file.
        rows: At least one; column name → value. The columns of an existing file must be the same ones.

    Raises:
        UserError: The file has other columns, or cannot be written.
    """
    path, columns = Path(path), list(rows[0])
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    if old:
        header = next(csv.reader(io.StringIO(old)))
        if header != columns:
            raise UserError(
                f"{path} has the columns {', '.join(header)}; this row has {', '.join(columns)}. Name another file."
            )
        if not old.endswith("\n"):
            old += "\n"
    else:
        writer.writeheader()
    writer.writerows(rows)
    write_text(path, old + text.getvalue())


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Reads what `append_rows` wrote: column name → text; no rows where there is no file yet."""
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_writable(directory: str | os.PathLike[str], needed_bytes: int = 0) -> None:
    """Makes sure, before work begins, that its results can be stored.

    Args:
        directory: The folder, made when it is missing.
        needed_bytes: How much will be written.

    Raises:
        UserError: The folder cannot be made or written, or its disk has too little space.
    """
    directory = Path(directory)
    with _named_os_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / _unfinished_name("tmp", "probe")
        try:
            probe.write_bytes(b"probe")
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
        _check_free(directory, directory, needed_bytes)


def check_could_write(directory: str | os.PathLike[str], needed_bytes: int = 0) -> None:
    """As `check_writable`, as far as one can tell without writing anything.

    Args:
        directory: The folder, which may be missing.
        needed_bytes: How much will be written.

    Raises:
        UserError: The folder cannot be made or written, or its disk has too little space.
    """
    directory = Path(directory)
    there = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise UserError(f"Cannot write {directory}: {there} is not a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"Cannot write {directory}: Permission denied.")
    _check_free(directory, there, needed_bytes)


def _check_free(directory: Path, there: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise UserError(
            f"{directory} needs {megabytes(needed_bytes)} of disk space, {megabytes(free)} are free. "
            "Free some space or name another folder."
        )


def save_model(
    model: "keras.Model",
    path: str | os.PathLike[str],
    preprocessing: "Preprocessing | None" = None,
    config: "ResNetConfig | None" = None,
) -> None:
    """Saves a model as one .keras file that carries its preprocessing and its configuration inside.

    Args:
        model: The model; it loads again without custom objects when its layers are Keras' own.
        path: The file, ending in ".keras"; replaced when it exists.
        preprocessing: What happens between an image and the network.
        config: What the network was built from.

    Raises:
        UserError: The name does not end in ".keras", or the folder cannot be written.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise UserError(f"A model file's name ends in .keras, got {path.name!r}.")
    with atomic_file(path) as temporary:
        with deep_graphs():
            model.save(temporary)
        with zipfile.ZipFile(temporary, "a", zipfile.ZIP_DEFLATED) as archive:
            if preprocessing is not None:
                archive.writestr(PREPROCESSING_MEMBER, json.dumps(preprocessing.to_dict(), ensure_ascii=False))
            if config is not None:
                archive.writestr(CONFIG_MEMBER, json.dumps(config_to_dict(config), ensure_ascii=False))


def load_model(path: str | os.PathLike[str]) -> "tuple[keras.Model, Preprocessing | None]":
    """Loads a .keras file and the preprocessing inside it.

    Args:
        path: The file.

    Returns:
        The model, not compiled, and its preprocessing (None where the file has none).

    Raises:
        UserError: There is no such file, it is not a .keras file, or its preprocessing does not fit the model.
    """
    from keras_resnet.models.files import read_keras_file

    path = Path(path)
    preprocessing = read_preprocessing(path)
    try:
        model = read_keras_file(path)
    except Exception as error:  # zipfile, zlib, h5py and Keras each have their own kind
        raise _not_complete(path, error) from None
    if preprocessing is None:
        return model, None
    expected = (preprocessing.height, preprocessing.width, preprocessing.channels)
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.inputs[0].shape) != 4:
        raise UserError(f"{path} has a preprocessing for images, but its network does not take one image.")
    shape = tuple(model.inputs[0].shape[1:])
    if any(have is not None and have != want for have, want in zip(shape, expected, strict=True)):
        raise UserError(f"{path}: its preprocessing gives images of {expected}, its network takes {shape}.")
    classes = model.outputs[0].shape[-1] if model.outputs[0].shape else None
    if preprocessing.labels and len(preprocessing.labels) != classes:
        raise UserError(f"{path}: {len(preprocessing.labels)} labels, but the network has {classes} outputs.")
    return model, preprocessing


def read_preprocessing(path: str | os.PathLike[str]) -> "Preprocessing | None":
    """Reads the preprocessing inside a .keras file, without loading the network.

    Returns:
        The preprocessing; None where the file has none.

    Raises:
        UserError: There is no such file, or it is not a .keras file.
    """
    from keras_resnet.data.preprocessing import Preprocessing

    stored = _read_json_member(path, PREPROCESSING_MEMBER)
    return None if stored is None else Preprocessing.from_dict(stored)


def read_config(path: str | os.PathLike[str]) -> "ResNetConfig | None":
    """Reads what the network in a .keras file was built from, without loading the network.

    Returns:
        The configuration; None where the file has none, or one of a later version, which this one does not know.

    Raises:
        UserError: There is no such file, or it is not a .keras file.
    """
    stored = _read_json_member(path, CONFIG_MEMBER)
    try:
        return config_from_dict(stored) if isinstance(stored, dict) else None
    except UserError:
        return None


def _read_json_member(path: str | os.PathLike[str], member: str) -> Any:
    """What a .keras file says in a member; None where it has no such member."""
    if not Path(path).is_file():
        raise UserError(f"There is no model file {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            check_sizes(archive)
            text = read_member(archive, member)
        return None if text is None else json.loads(text)
    except (*DAMAGED_ARCHIVE, ValueError) as error:
        raise _not_complete(path, error) from None


def _not_complete(path: str | os.PathLike[str], error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f"{path} is not a complete .keras file: {reason}")


def _unfinished_name(kind: str, name: str) -> str:
    return f".{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.{kind}-{name}"


@contextlib.contextmanager
def _named_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and error.filename is None:
            raise
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error
