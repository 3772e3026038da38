"""The public names are annotated whole, and type checkers are told of the very same ones."""

import ast
import inspect
import tomllib
from pathlib import Path

import pytest

import keras_resnet

ROOT = Path(__file__).parents[1]


def test_the_stub_names_what_the_package_loads():
    tree = ast.parse((ROOT / "keras_resnet" / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    # `X as X` is what makes a name of a stub public.
    named = {name.name: node.module for node in imports for name in node.names if name.asname == name.name}
    assert named == keras_resnet._PUBLIC


def test_the_type_checker_looks_at_every_public_module():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    modules = {f"{module.replace('.', '/')}.py" for module in keras_resnet._PUBLIC.values()}
    assert set(settings["files"]) == modules | {"keras_resnet/__init__.pyi"}


@pytest.mark.parametrize("name", sorted(keras_resnet._PUBLIC))
def test_a_public_name_is_annotated_whole(name):
    value = getattr(keras_resnet, name)
    if inspect.isclass(value) and issubclass(value, Exception):
        return
    signature = inspect.signature(value)
    unsaid = [row.name for row in signature.parameters.values() if row.annotation is inspect.Parameter.empty]
    assert unsaid == []
    if not inspect.isclass(value):
        assert signature.return_annotation is not inspect.Signature.empty
