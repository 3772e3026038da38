"""Recipes from files, JSON or YAML, and what becomes of their settings where flags leave no room for them.

YAML is read by version 1.2's core schema, where 1e-4 is a number and on, off, yes and no are words; PyYAML by itself
follows version 1.1, where they are not. Nothing here imports TensorFlow.
"""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from keras_resnet.errors import UserError
from keras_resnet.training.recipes import Recipe

# What is usual where a recipe's rate was chosen for another optimizer: SGD as in He 2015, AdamW as in Keras, LAMB as in
# strikes_back_a1 (Wightman 2021), Lion a tenth of AdamW's (Chen 2023: 3 to 10 times smaller), Muon as in its author's
# code (Jordan 2024).
USUAL_RATES = {"sgd": 0.1, "adamw": 1e-3, "lamb": 5e-3, "lion": 1e-4, "muon": 0.02}


def load_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the settings in a recipe file, or in the recipe.json of a run.

    Args:
        path: The file; YAML where its name ends in .yaml or .yml, else JSON.

    Returns:
        Setting → value, each checked.

    Raises:
        UserError: There is no such file, it is neither JSON nor YAML, a key is unknown or stands twice, or a value
            breaks its rule.
    """
    path = Path(path)
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"Cannot read the recipe {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"The recipe {path} is not text in UTF-8.") from None
    try:
        content = _parse_yaml(text) if is_yaml else json.loads(text, object_pairs_hook=_without_repetition)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        kind = "YAML" if is_yaml else "JSON"
        raise UserError(f"The recipe {path} is not {kind}: {str(error).rstrip('.')}.") from None
    if content is None:
        raise UserError(f"The recipe {path} is empty. Write settings into it, as epochs: 30.")
    if isinstance(content, dict) and isinstance(content.get("settings"), dict):
        content = content["settings"]
    try:
        Recipe.from_dict(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return content


def override(settings: Mapping[str, Any], flags: Mapping[str, Any]) -> tuple[Recipe, tuple[str, ...]]:
    """Puts flags over the settings of a recipe.

    A setting of the recipe that the flags leave no room for gives way, and a sentence says so. Flags that contradict
    each other, or settings of one recipe that do, are an error as ever.

    Args:
        settings: The recipe's, valid by themselves.
        flags: What was asked for beside it.

    Returns:
        The recipe, and a sentence for each setting that gave way.

    Raises:
        UserError: A key is unknown, or a value breaks its rule.
    """
    chosen = {**Recipe().to_dict(), **settings, **flags}
    said = []

    def give_way(name: str, value: Any, why: str) -> None:
        if name in settings and name not in flags:
            said.append(f"{name} {chosen[name]:g} of the recipe {why}.")
            chosen[name] = value

    made_for = settings.get("optimizer", Recipe().optimizer)
    if chosen["optimizer"] != made_for and "learning_rate" not in flags and chosen["optimizer"] in USUAL_RATES:
        # A recipe that says nothing has the rate of the default, which belongs to its optimizer just as well.
        rate = USUAL_RATES[chosen["optimizer"]]
        said.append(
            f"learning_rate {chosen['learning_rate']:g} of the recipe belongs to optimizer {made_for}: {rate:g} for "
            f"optimizer {chosen['optimizer']}."
        )
        chosen["learning_rate"] = rate
    if _exceeds(chosen["warmup_epochs"], chosen["epochs"]):
        shortened = f"is longer than the run: shortened to {chosen['epochs'] / 20:g}, a twentieth of its epochs"
        give_way("warmup_epochs", None, shortened)
    if _exceeds(chosen["final_learning_rate"], chosen["learning_rate"]):
        give_way("final_learning_rate", 0.0, f"is above learning_rate {chosen['learning_rate']:g}: lowered to 0")
    if chosen["target_threshold"] is not None and chosen["loss"] != "bce":
        give_way("target_threshold", None, f"belongs to loss bce: left out for loss {chosen['loss']}")
    if chosen["crop_fraction"] != 1 and chosen["resize"] != "crop":
        give_way("crop_fraction", 1.0, f"belongs to resize crop: left out for resize {chosen['resize']}")
    return Recipe.from_dict(chosen), tuple(said)


def _exceeds(value: Any, limit: Any) -> bool:
    """Whether both are numbers and the first is the larger one; `Recipe` refuses what is none."""
    return all(isinstance(number, int | float) for number in (value, limit)) and value > limit


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise _repeated(key)
    return dict(pairs)


def _repeated(key: str) -> UserError:
    return UserError(f"A setting must stand in a recipe once, got {key!r} twice. Leave one of them out.")


def _parse_yaml(text: str) -> Any:
    """Reads one document of scalars and mappings; ValueError with one line where it is not YAML."""
    import yaml

    loader = _yaml_loader()(text)
    try:
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"{error.problem or error.context}{place}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    finally:
        loader.dispose()


@functools.cache
def _yaml_loader() -> type:
    """PyYAML's safe loader with the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema)."""
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        # A table of its own: PyYAML would add to the parent's.
        yaml_implicit_resolvers: ClassVar[dict] = {}

        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                raise UserError("A recipe must give each value where it stands, got an alias (*name). Write it out.")
            return super().compose_node(parent, index)

        def construct_mapping(self, node, deep=False):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for key in keys:
                if keys.count(key) > 1:
                    raise _repeated(key)
            return super().construct_mapping(node, deep=deep)

    for tag, pattern, first in (
        ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+", list("-+0123456789")),
        (
            "float",
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
            list("-+0123456789."),
        ),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), first)
    # Version 1.1 reads 010 as 8.
    Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node), 10))
    return Loader
