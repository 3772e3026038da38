"""`keras-resnet recipes [NAME]`: the recipes that `train.py --recipe NAME` knows, and every setting of one."""

import argparse
import csv
import dataclasses
import itertools
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from keras_resnet.cli import script
from keras_resnet.training.named_recipes import DEFAULT_RECIPE, RECIPES, get_named_recipe
from keras_resnet.training.recipes import Recipe

# Of a checkout; an installed package has no such folder, and shows no measured values.
RESULTS = Path(__file__).resolve().parents[2] / "results"


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
        print(f"{'name':17}{'model':15}{'epochs':>7}  {'source':80}published result")
        for name, row in RECIPES.items():
            recipe = Recipe.from_dict(row.settings)
            source = row.source or "this project"
            print(f"{name:17}{recipe.model:15}{recipe.epochs:>7}  {source:80}{row.result}".rstrip())
        return
    row = get_named_recipe(arguments.name)
    recipe, measured = Recipe.from_dict(row.settings), _measured(arguments.name)
    if arguments.json:
        shown = {"name": arguments.name, **dataclasses.asdict(row), "settings": recipe.to_dict(), "measured": measured}
        print(json.dumps(shown))
        return
    notes = "differs" if row.source else "this project's"
    for title, text in (("source", row.source), ("published", row.result), (notes, row.differences)):
        if text:
            print(f"{title}: {text}")
    for found in measured:
        print(
            f"measured: {float(found['test_accuracy']):.2%} test accuracy on {found['dataset']}, {found['model']}, "
            f"{found['epochs']} epochs, seed {found['seed']} ({found['hardware']}, {found['date']})"
        )
    print("\n".join(settings_table(recipe)))


def settings_table(recipe: Recipe) -> list[str]:
    """Returns the lines that show a recipe: one a setting, marked where it is not the default."""
    changed = recipe.changed()
    return [
        "settings (* not the default):",
        *(
            f"  {'*' if name in changed else ' '} {name:22} {'–' if value is None else value}"
            for name, value in recipe.to_dict().items()
        ),
    ]


def _measured(name: str) -> list[dict[str, str]]:
    """The rows of results/ in a checkout that were trained by this recipe; of several marks in time the last one."""
    found = {}
    for path in sorted(RESULTS.glob("*.csv")):
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row.get("test_accuracy") and _recipe_of(row) == name:
                    # A later mark of the same training replaces the one before it.
                    marks = row.get("mark_seconds")
                    found[path.name, row["dataset"], row["model"], row["seed"], None if marks else len(found)] = row
    return list(found.values())


def _recipe_of(row: dict[str, str]) -> str | None:
    """The name of the recipe that a row's training went by."""
    words = shlex.split(row.get("command") or "")
    if "train.py" in words:
        return next(iter(_values_of(words, "--recipe")), DEFAULT_RECIPE)
    return row.get("contestant")


def _values_of(words: list[str], flag: str) -> list[str]:
    behind = [value for word, value in itertools.pairwise(words) if word == flag]
    return behind + [word.removeprefix(f"{flag}=") for word in words if word.startswith(f"{flag}=")]
