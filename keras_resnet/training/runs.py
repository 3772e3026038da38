"""The run directory: what it holds, when it may be written, and when a training in it may resume.

runs/<name>/recipe.json         settings, the network's configuration, backend, versions, data set and its fingerprint
            metrics.csv         one row per epoch
            tensorboard/        the same as TensorBoard reads it
            checkpoints/        the newest two epochs and the best one
            model.keras         the best network, with its preprocessing inside
            report.html         all of this on one page
            test_metrics.json   written last: a run that has it is finished
"""

import contextlib
import csv
import dataclasses
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_resnet import provenance
from keras_resnet.backends import TENSORFLOW, backend
from keras_resnet.errors import UserError
from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.config_files import (
    NAMING,
    RUN_KEY,
    config_from_dict,
    config_to_dict,
    is_config_file,
    network_name,
)
from keras_resnet.models.registry import get_config
from keras_resnet.storage import check_writable, is_unfinished, read_json, sweep, write_json, write_text
from keras_resnet.training.named_recipes import DEFAULT_RECIPE
from keras_resnet.training.recipes import Recipe


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model.keras"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def test_metrics(self) -> Path:
        return self.path / "test_metrics.json"

    @property
    def is_finished(self) -> bool:
        return self.test_metrics.is_file()


def default_name(recipe: Recipe) -> str:
    """Returns the name of a run that was given none: a folder or file of data is called by its own name."""
    source, _, argument = recipe.dataset.partition(":")
    data = recipe.dataset
    if source in ("folder", "npz") and argument:
        data = Path(argument).resolve().stem
    elif source == "records":  # its address may be a server's
        data = argument.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.+-]+", "-", f"{data}-{network_name(recipe.model)}-seed{recipe.seed}")


def find_network(recipe: Recipe, *runs: RunDirectory, report: Callable[[str], None] = print) -> ResNetConfig:
    """Returns the configuration of a recipe's network.

    Args:
        recipe: The settings; `model` is a name of the table or a file.
        runs: Where the file is gone, the first of these that was begun with it has a copy.
        report: Told that a copy is used.

    Raises:
        UserError: There is no such network.
    """
    if is_config_file(recipe.model) and not Path(recipe.model).exists():
        for run in runs:
            if not run.recipe.is_file():
                continue
            stored = _read_stored(run)
            model = stored["settings"].get("model")
            if RUN_KEY in stored and is_config_file(model) and Path(model).name == Path(recipe.model).name:
                report(f"There is no file {recipe.model} any more; {run.recipe} has a copy of the network.")
                return config_from_dict(stored[RUN_KEY])
    return get_config(recipe.model)


def check_run(run: RunDirectory, served: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuses, before any work, to write over what is finished or is not a run.

    Args:
        run: The run directory.
        served: The folder below saved_models/ that the run will write.
        resume: Whether there must be something to resume.
        overwrite: Whether what is there may be removed.

    Raises:
        UserError: With what to do instead.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other. Give one of them.")
    if resume and not run.recipe.is_file():
        raise UserError(f"There is no run to resume at {run.path}. Leave --resume out to start one.")
    if overwrite:
        return
    if run.is_finished:
        raise UserError(f"The run {run.path} is finished. Choose another --name, or --overwrite to train it again.")
    if run.path.is_dir() and not run.recipe.is_file() and not all(map(_is_leftover, run.path.iterdir())):
        raise UserError(f"{run.path} is not a run and not empty. Choose another --name or --overwrite it.")
    if served.exists() and not run.recipe.is_file():
        raise UserError(f"{served} exists already. Choose another --name or --overwrite it.")


@contextlib.contextmanager
def open_run(
    run: RunDirectory,
    recipe: Recipe,
    *,
    network: ResNetConfig,
    dataset: Mapping[str, Any],
    resume: bool,
    overwrite: bool,
    needed_bytes: int,
    report: Callable[[str], None],
    writes: bool = True,
    based_on: str = DEFAULT_RECIPE,
) -> Iterator[None]:
    """Prepares a run directory and keeps other processes out of it.

    Args:
        run: The directory, already checked by `check_run`.
        recipe: The settings.
        network: The configuration of its network, from `find_network`.
        dataset: Name, fingerprint and further facts of the data set.
        resume: Whether the settings must be the run's even where no epoch is complete.
        overwrite: Whether an older run is removed first.
        needed_bytes: Disk space that the run will take.
        report: Told what a person should know.
        writes: Whether this process prepares and locks it; the others of several workers read.
        based_on: The named recipe that the settings started from, or the path of a file.

    Raises:
        UserError: The folder cannot be written, another process trains in it, or it holds a run with other settings,
            another network, another backend or another data set.
    """
    if not writes:
        yield
        return
    check_writable(run.path, needed_bytes)
    with _lock(run.path):
        for folder in (run.path, run.checkpoints):
            sweep(folder)
        if overwrite:
            for child in run.path.iterdir():
                if child.name != _LOCK:
                    shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
        if not check_unchanged(run, recipe, network=network, dataset=dataset, resume=resume, report=report):
            write_json(
                run.recipe,
                {
                    "based_on": based_on,
                    "settings": recipe.to_dict(),
                    # Whole: the run can be resumed and its network built when a file or the table has changed.
                    RUN_KEY: config_to_dict(network),
                    "backend": backend(),
                    "dataset": dict(dataset),
                    "versions": provenance.versions(),
                    "hardware": provenance.hardware(),
                    "commit": provenance.commit(),
                },
            )
        yield


def check_unchanged(
    run: RunDirectory,
    recipe: Recipe,
    *,
    network: ResNetConfig,
    dataset: Mapping[str, Any],
    resume: bool = False,
    report: Callable[[str], None],
) -> bool:
    """Makes sure that a run is continued with the settings, network, backend and data that it was begun with.

    Args:
        run: The directory.
        recipe: The settings.
        network: The configuration of its network, from `find_network`.
        dataset: Name, fingerprint and further facts of the data set.
        resume: Whether that counts even where no epoch is complete.
        report: Told of versions that have changed.

    Returns:
        Whether there is a run to continue.

    Raises:
        UserError: It holds a run with other settings, another network, another backend or another data set.
    """
    # A run without a checkpoint has nothing that other settings could spoil.
    if not run.recipe.is_file() or not (resume or any(run.checkpoints.glob("*.npz"))):
        return False
    _check_same(run, recipe, network, dataset, report)
    return True


def check_free(run: RunDirectory) -> None:
    """Raises the UserError where another process trains in a run directory; writes nothing."""
    try:
        import fcntl

        with open(run.path / _LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (ImportError, FileNotFoundError):
        return
    except OSError:
        raise _occupied(run.path) from None


def write_metrics(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes metrics.csv as a whole, so that an interruption never leaves half a row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


_LOCK = ".lock"


def _is_leftover(path: Path) -> bool:
    """Whether a run that was killed before it had a recipe left this behind."""
    return path.name == _LOCK or is_unfinished(path.name)


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows has no such lock; nothing else depends on it
        yield
        return
    with open(directory / _LOCK, "w") as file:
        try:
            # The system lets go of it when the process ends, in whatever way.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _occupied(directory) from None
        yield
        with contextlib.suppress(OSError):
            os.unlink(directory / _LOCK)


# What a network is called, and what the data set decides, may change.
_IRRELEVANT = {*NAMING, "input_shape", "num_classes"}
_DEFAULT_FIELDS = {
    field.name: list(field.default) if isinstance(field.default, tuple) else field.default
    for field in dataclasses.fields(ResNetConfig)
    if field.default is not dataclasses.MISSING
}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The keys with other values, each with both; "" where there are none."""
    return "; ".join(
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in _IRRELEVANT
    )


def _occupied(directory: Path) -> UserError:
    return UserError(f"Another process is training in {directory}. Wait for it or choose another --name.")


def _read_stored(run: RunDirectory) -> dict[str, Any]:
    stored = read_json(run.recipe)
    parts = (stored.get("settings"), stored.get(RUN_KEY, {})) if isinstance(stored, dict) else (None,)
    if not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{run.recipe} is not a run's recipe. Choose another --name or --overwrite the run.")
    return stored


def _check_same(
    run: RunDirectory, recipe: Recipe, network: ResNetConfig, dataset: Mapping[str, Any], report: Callable
) -> None:
    stored = _read_stored(run)
    # A setting that the run does not know is younger than it: it was trained as the default says.
    before, now = Recipe().to_dict() | stored["settings"], recipe.to_dict()
    if is_config_file(before["model"]) and is_config_file(now["model"]):
        before["model"] = now["model"]  # what the files say is compared below
    differences = _differences(before, now)
    if differences:
        raise UserError(
            f"The run {run.path} was begun with other settings: {differences}. "
            "Use the old ones, choose another --name, or --overwrite it."
        )
    # Older runs have no configuration; neither do fields that are younger than the run.
    differences = _differences(_DEFAULT_FIELDS | stored.get(RUN_KEY, config_to_dict(network)), config_to_dict(network))
    if differences:
        raise UserError(
            f"The run {run.path} was begun with another network {recipe.model}: {differences}. "
            f"Restore it (a copy is in {run.recipe}), choose another --name, or --overwrite the run."
        )
    began_on = stored.get("backend", TENSORFLOW)  # a run that names none is older than the choice
    if began_on != backend():
        raise UserError(
            f"The run {run.path} was begun with Keras on {began_on}: it continues there alone, got {backend()}. Set "
            f"KERAS_BACKEND={began_on}, choose another --name, or --overwrite it."
        )
    if stored.get("dataset", {}).get("fingerprint") != dataset["fingerprint"]:
        raise UserError(
            f"The run {run.path} was begun with other data: the data set's fingerprint differs. "
            "Restore the data, choose another --name, or --overwrite it."
        )
    old, new = stored.get("versions", {}), provenance.versions()
    changed = [f"{name} {old.get(name)} → {new[name]}" for name in new if old.get(name) != new[name]]
    if changed:
        report(f"Versions have changed since the run began ({', '.join(changed)}): small differences are possible.")
