"""A network that no table has: a JSON file of `ResNetConfig` fields, which is read and never executed.

    {"base": "resnet50", "stem": "deep", "attention": "eca"}

changes fields of a row of the table. Without a base the file gives block, depths and widths, and whatever differs from
`ResNetConfig`'s defaults. The recipe.json of a run is such a file as well: the run keeps its network there.
"""

import dataclasses
import json
import math
import os
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_resnet.archives import megabytes
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.registry import REGISTRY

if TYPE_CHECKING:
    pass

SUFFIX = ".json"
BASE = "base"
# Where a run's recipe.json keeps the fields.
RUN_KEY = "network"
# A row takes about one kilobyte, a run's recipe.json as many as its class names do.
MAX_BYTES = 4 << 20
# resnet1202 has 600 blocks, and `deep_graphs` makes room for graphs of that depth.
MAX_BLOCKS = 1000
MAX_NUMBER = 65_536
MAX_TEXT = 200
# Fields that say what a network is called, and what it is built for where nothing else is said.
NAMING = ("name", "paper", "group")
OWN_GROUP = "own"

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}", re.ASCII)
_FIELDS = {field.name: field for field in dataclasses.fields(ResNetConfig)}
_TYPES = typing.get_type_hints(ResNetConfig)
# Type → what a field of it must be, and a list of such.
_WORDS = {
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
}


def is_config_file(name: object) -> bool:
    """Whether a network is given as a file instead of a name of the table."""
    return isinstance(name, str | os.PathLike) and os.fspath(name).lower().endswith(SUFFIX)


def load_config(path: str | os.PathLike[str]) -> ResNetConfig:
    """Reads a network's configuration from a file.

    Args:
        path: A JSON file of fields, or the recipe.json of a run.

    Returns:
        The configuration. Where the file says nothing of it, the name is the file's own.

    Raises:
        UserError: There is no such file, it is too large or not JSON, a field is unknown or stands twice, or a value
            breaks its rule.
    """
    path = Path(path)
    content = _read(path)
    try:
        if isinstance(content, dict) and isinstance(content.get(RUN_KEY), dict):
            return config_from_dict(content[RUN_KEY])
        return _own_config(content, name=_name_of(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def network_name(model: str) -> str:
    """Returns what a network is called: a name of the table as it is; for a file what it says, or else its own name."""
    if not is_config_file(model):
        return model
    try:
        return load_config(model).name
    except UserError:
        return _name_of(Path(model))


def config_to_dict(config: ResNetConfig) -> dict[str, Any]:
    """Returns every field as JSON can hold it; `config_from_dict` reads it back."""
    fields = dataclasses.asdict(config)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def config_from_dict(fields: Mapping[str, Any]) -> ResNetConfig:
    """Builds the configuration that `config_to_dict` wrote; fields that are younger than that have their defaults.

    Raises:
        UserError: A field is unknown or missing, or a value breaks its rule.
    """
    for key in fields:
        if key not in _FIELDS:
            raise unknown_name("network field", key, _FIELDS)
    missing = [name for name, field in _FIELDS.items() if name not in fields and field.default is dataclasses.MISSING]
    if missing:
        raise UserError(
            f"A network needs {', '.join(missing)}: write them, or a row of the table to start from, as "
            f'"{BASE}": "resnet50".'
        )
    config = ResNetConfig(**{name: _checked(name, _TYPES[name], value) for name, value in fields.items()})
    _check_sizes(config)
    return config


def _read(path: Path) -> Any:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"A network's file has at most {megabytes(MAX_BYTES)}, {path} has {megabytes(size)}.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"Cannot read the network {path}: {error.strerror}. A run that was trained with it has a copy: give the "
            "run's recipe.json."
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"The network {path} is not text in UTF-8.") from None
    try:
        return json.loads(text, object_pairs_hook=_without_repetition)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"The network {path} is not JSON: {str(error).rstrip('.')}.") from None


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"A field must stand in a network's file once, got {key!r} twice. Leave one of them out.")
    return dict(pairs)


def _own_config(content: Any, *, name: str) -> ResNetConfig:
    if not isinstance(content, dict):
        raise UserError(f'A network is fields with their values, as {{"{BASE}": "resnet50"}}, got {_shown(content)}.')
    changes = dict(content)
    base = changes.pop(BASE, None)
    for key in changes:
        if key not in _FIELDS:
            raise unknown_name("network field", key, (*_FIELDS, BASE))
    fields: dict[str, Any] = {"name": name, "paper": "", "group": OWN_GROUP}
    if base is not None:
        if not isinstance(base, str) or base not in REGISTRY:
            raise unknown_name("base, a network of the table", base, REGISTRY)
        said = ", ".join(f"{key} {_shown(value)}" for key, value in changes.items() if key not in NAMING)
        fields = {**config_to_dict(REGISTRY[base]), **fields, "paper": f"{base} with {said}" if said else base}
        fields["paper"] = fields["paper"][:MAX_TEXT]
    config = config_from_dict({**fields, **changes})
    if config.name in REGISTRY and config != REGISTRY[config.name]:
        raise UserError(
            f"The table has a network {config.name!r} already, which this one is not: call the file otherwise, or give "
            'it another "name".'
        )
    return config


def _name_of(path: Path) -> str:
    """A file's name as a network's."""
    return re.sub(r"[^\w.+-]+", "-", path.stem, flags=re.ASCII).strip("-._+")[:100] or OWN_GROUP


def _checked(name: str, kind: Any, value: Any) -> Any:
    """A value as the field's type has it."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if value is None and type(None) in typing.get_args(kind):
            return None
        (kind,) = (each for each in typing.get_args(kind) if each is not type(None))
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if not isinstance(value, list | tuple) or not (Ellipsis in kinds or len(value) == len(kinds)):
            count = "" if Ellipsis in kinds else f"{len(kinds)} "
            raise UserError(f"{name} must be a list of {count}{_WORDS[kinds[0]][1]}, got {_shown(value)}.")
        return tuple(_checked_item(name, kinds[0], each, f"a list of {_WORDS[kinds[0]][1]}", value) for each in value)
    return _checked_item(name, kind, value, _WORDS[kind][0], value)


def _checked_item(name: str, kind: type, value: Any, expected: str, whole: Any) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= MAX_NUMBER else math.inf
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{name} must be {expected}, got {_shown(whole)}.")
    if kind is str:
        if not value.isprintable() or len(value) > MAX_TEXT:
            raise UserError(f"{name} must be one line of at most {MAX_TEXT} characters, got {_shown(whole)}.")
        if name == "name" and not _NAME.fullmatch(value):
            raise UserError(f"name must be letters, digits and any of ._+-, got {_shown(whole)}.")
    elif kind is not bool:
        _check_number(name, kind, value, whole)
    return value


def _check_number(name: str, kind: type, value: float, whole: Any) -> None:
    """A number must be positive, unless the field's default is not."""
    default = _FIELDS[name].default
    defaults = default if isinstance(default, tuple) else (default,)
    others = [number for number in defaults if isinstance(number, int | float) and number <= 0]
    if not (value >= min(others) if others else value > 0) or value > MAX_NUMBER:
        lowest = f"from {min(others):g}" if others else "from 1" if kind is int else "above 0, up"
        raise UserError(f"{name} must be {lowest} to {MAX_NUMBER:,}, got {_shown(whole)}.")


def _check_sizes(config: ResNetConfig) -> None:
    if sum(config.depths) > MAX_BLOCKS:
        raise UserError(f"depths must sum to at most {MAX_BLOCKS:,} blocks, got {sum(config.depths):,}.")
    if config.norm_momentum >= 1:
        raise UserError(f"norm_momentum must be below 1, got {config.norm_momentum:g}.")
    if config.block == "basic" and config.cardinality > 1:
        raise UserError(f"cardinality belongs to block bottleneck, got {config.cardinality} and block basic.")
    if config.stem == "deep" and config.stem_width < 2:
        raise UserError(f"stem_width must be at least 2 with stem deep, got {config.stem_width}.")


def _shown(value: Any) -> str:
    """A value as the file has it."""
    text = value if isinstance(value, str) and value.isprintable() else json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:80]}…"
