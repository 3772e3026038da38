"""A run directory read back, for reports and comparisons. Imports no TensorFlow."""

import csv
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_resnet.backends import TENSORFLOW
from keras_resnet.errors import UserError
from keras_resnet.models.config_files import RUN_KEY, network_name
from keras_resnet.storage import read_json
from keras_resnet.training.named_recipes import DEFAULT_RECIPE, RECIPES
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.runs import RunDirectory, default_name

# What every epoch of a run has written down.
COLUMNS = ("epoch", "learning_rate", "loss", "accuracy", "val_loss", "val_accuracy", "images_per_second", "seconds")


@dataclass(frozen=True)
class RunRecord:
    """What a run directory says about its training.

    Attributes:
        run: The directory.
        settings: Every setting, by name.
        network: Every field of the network's configuration; none, where the run is older than that.
        based_on: The named recipe that the settings started from, or the path of a file.
        dataset: Name, fingerprint and sizes of the data set.
        versions: Package → version.
        hardware: Processor and GPUs.
        backend: What Keras ran on.
        commit: The source's commit; "" where it was none.
        epochs: A row of metrics.csv for each epoch, as numbers.
        metrics: What test_metrics.json holds; None while the run is unfinished.
    """

    run: RunDirectory
    settings: dict[str, Any]
    network: dict[str, Any]
    based_on: str
    dataset: dict[str, Any]
    versions: dict[str, str]
    hardware: str
    backend: str
    commit: str
    epochs: tuple[dict[str, float], ...]
    metrics: dict[str, Any] | None

    @property
    def name(self) -> str:
        return self.run.path.resolve().name

    @property
    def network_name(self) -> str:
        """What the network is called, which is a file's name for one of somebody's own."""
        return self.network.get("name") or network_name(self.settings["model"])

    @property
    def best_epoch(self) -> int | None:
        """The epoch whose weights are kept, counted from 1; None before the first."""
        if self.metrics is not None:
            return self.metrics["best_epoch"]
        best = max(self.epochs, key=lambda row: (row["val_accuracy"], -row["val_loss"]), default=None)
        return None if best is None else int(best["epoch"])

    @property
    def best_row(self) -> dict[str, float] | None:
        """The row of the best epoch; None where there is none."""
        return next((row for row in self.epochs if row["epoch"] == self.best_epoch), None)

    @property
    def base(self) -> dict[str, Any]:
        """Every setting of the recipe that this one is based on; of a file, which may be gone, the defaults."""
        recipe = RECIPES.get(self.based_on)
        return Recipe.from_dict(recipe.settings if recipe else {}).to_dict()

    def column(self, name: str) -> list[float]:
        """Returns a column of metrics.csv."""
        return [row[name] for row in self.epochs]


def read_record(path: str | os.PathLike[str]) -> RunRecord:
    """Reads a run directory.

    Args:
        path: The directory; the run may be unfinished.

    Returns:
        What it says.

    Raises:
        UserError: It is no run directory, or a file in it is damaged.
    """
    run = RunDirectory(Path(path))
    if not run.recipe.is_file():
        raise UserError(f"A run is a directory with recipe.json, {path} is none. Give a directory that train.py wrote.")
    stored = read_json(run.recipe)
    if not isinstance(stored, dict) or not isinstance(stored.get("settings"), dict):
        raise UserError(f"{run.recipe} is not a run's recipe. Give a directory that train.py wrote.")
    return RunRecord(
        run=run,
        # A setting that the run does not know is younger than it: it was trained as the default says.
        settings=Recipe().to_dict() | stored["settings"],
        network=stored.get(RUN_KEY) or {},
        based_on=stored.get("based_on") or DEFAULT_RECIPE,
        dataset=stored.get("dataset") or {},
        versions=stored.get("versions") or {},
        hardware=stored.get("hardware") or "",
        backend=stored.get("backend") or TENSORFLOW,
        commit=stored.get("commit") or "",
        epochs=_read_epochs(run.metrics),
        metrics=read_json(run.test_metrics) if run.is_finished else None,
    )


def repeating_command(record: RunRecord) -> str:
    """Returns the command line that trains with the settings of a run.

    It names the recipe that the run is based on and the settings that differ; every setting, where there is no such
    recipe any more or a flag cannot say the difference.
    """
    base, start = record.base, ["--recipe", record.based_on]
    if record.based_on not in RECIPES or None in _differences(record.settings, base).values():
        base, start = Recipe().to_dict(), []
    elif record.based_on == DEFAULT_RECIPE:
        start = []
    words = ["python", "train.py", *start]
    for name, value in _differences(record.settings, base).items():
        flag, text = f"--{name.replace('_', '-')}", str(value)
        words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    if record.name != default_name(Recipe.from_dict(_known(record.settings))):
        words += ["--name", record.name]
    line = shlex.join(words)
    return line if record.backend == TENSORFLOW else f"KERAS_BACKEND={record.backend} {line}"


def changed_settings(record: RunRecord) -> dict[str, tuple[Any, Any]]:
    """Returns the settings that differ from the recipe: name → (the run's, the recipe's)."""
    base = record.base
    return {name: (value, base.get(name)) for name, value in _differences(record.settings, base).items()}


def _differences(settings: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value != base.get(name)}


def _known(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that this version knows: a run of a younger one may have more."""
    return {name: settings[name] for name in Recipe().to_dict()}


def _read_epochs(path: Path) -> tuple[dict[str, float], ...]:
    if not path.is_file():
        return ()
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return tuple({name: float(row[name]) for name in COLUMNS} for row in rows)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a run's metrics: {error!r}. Train the run again.") from None
