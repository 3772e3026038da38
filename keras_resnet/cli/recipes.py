"""`keras-resnet recipes [NAME]`: the recipes that `train.py --recipe NAME` knows, and every setting of one."""

import argparse
import dataclasses
import json
from collections.abc import Sequence

from keras_resnet.cli import script
from keras_resnet.training.named_recipes import RECIPES, get_named_recipe
from keras_resnet.training.recipes import Recipe


def build_parser() -> script.Parser:
    """Returns the parser."""
    parser = script.Parser(prog="keras-resnet recipes", description=__doc__)
    parser.add_argument("name", nargs="?", help="one recipe, with all its settings")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table, or one recipe. Returns the exit code."""
    return script.run(_list, build_parser(), argv)


def _list(arguments: argparse.Namespace) -> None:
    if arguments.name is None:
        if arguments.json:
            print(json.dumps({"recipes": {name: dataclasses.asdict(row) for name, row in RECIPES.items()}}))
            return
        print(f"{'name':15}{'model':15}{'epochs':>7}  {'source':68}published result")
        for name, row in RECIPES.items():
            recipe = Recipe.from_dict(row.settings)
            source = row.source or "this project: the defaults of train.py"
            print(f"{name:15}{recipe.model:15}{recipe.epochs:>7}  {source:68}{row.result}".rstrip())
        return
    row = get_named_recipe(arguments.name)
    settings = Recipe.from_dict(row.settings).to_dict()
    if arguments.json:
        print(json.dumps({"name": arguments.name, **dataclasses.asdict(row), "settings": settings}))
        return
    for title, text in (("source", row.source), ("published", row.result), ("differs", row.differences)):
        if text:
            print(f"{title}: {text}")
    print("settings (* not the default):")
    for name, value in settings.items():
        print(f"  {'*' if name in row.settings else ' '} {name:22} {'–' if value is None else value}")
