"""The examples that a script works on: those that the run was trained on, or those that --dataset names."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_resnet.cli import script
from keras_resnet.errors import UserError
from keras_resnet.storage import read_json

if TYPE_CHECKING:
    from keras_resnet.data.dataset import DatasetSpec


def settings_of_run(model: str | Path) -> dict[str, Any]:
    """Returns the recipe's settings of a run directory; nothing for any other artifact.

    Raises:
        UserError: The run's recipe is damaged.
    """
    recipe = Path(model) / "recipe.json"
    if not recipe.is_file():
        return {}
    record = read_json(recipe)
    settings = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(settings, dict):
        raise UserError(f"{recipe} is not a run's recipe.")
    return settings


def dataset_name(arguments: argparse.Namespace, purpose: str) -> str:
    """Returns the data set of --dataset, or the run's.

    Args:
        arguments: With `model`, and `dataset` where the flag was given.
        purpose: What the examples are for, to follow "must say".

    Raises:
        UserError: There is neither, or no source has that name.
    """
    name = arguments.dataset or settings_of_run(arguments.model).get("dataset")
    if name is None:
        raise UserError(f"{arguments.model} is not a run directory, so --dataset must say {purpose}.")
    script.check_data_set(name)
    return name


def load_examples(
    arguments: argparse.Namespace,
    name: str,
    *,
    image_size: int,
    labels: Sequence[str],
    bad_images: str = "stop",
) -> "DatasetSpec":
    """Loads a data set for a model; the run's own just as it was in training.

    Args:
        arguments: With `model` and `seed`, and `data_dir` where the flag was given.
        name: From `dataset_name`.
        image_size: Side of the network's input.
        labels: The model's class names.
        bad_images: "stop" or "skip", for a data set that is not the run's.

    Raises:
        UserError: The data breaks a rule, or has other classes than the model.
    """
    from keras_resnet.data.sources import load_source

    settings = settings_of_run(arguments.model)
    # A split that is drawn must be drawn as in training, or trained images would be tested.
    own = settings if settings.get("dataset") == name else {}
    data = load_source(
        name,
        data_dir=arguments.data_dir or own.get("data_dir"),
        image_size=image_size,
        seed=own.get("seed", 0) if own else arguments.seed,
        bad_images=own.get("bad_images", "stop") if own else bad_images,
    )
    if not data.has_classes(labels):
        raise UserError(
            f"The model's classes ({_shortened(labels)}) are not the data set's ({_shortened(data.labels)}). "
            "Name the --dataset it was trained on."
        )
    return data


def _shortened(labels: Sequence[str]) -> str:
    return ", ".join(labels[:5]) + (f", … {len(labels)} in all" if len(labels) > 5 else "")
