"""`keras-resnet models [PATTERN]`: what networks there are and what each costs."""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_resnet.cli import script
from keras_resnet.errors import unknown_name
from keras_resnet.models.registry import REGISTRY, get_config, list_models

if TYPE_CHECKING:
    from keras_resnet.models.complexity import Complexity

TABLE_HEADER = f"{'name':22}{'parameters':>13}{'mult-adds':>11}  {'input':12}{'feature maps':56}"


def build_parser() -> script.Parser:
    """Builds the parser; imports nothing heavy."""
    parser = script.Parser(prog="keras-resnet models", description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help='shell-style pattern, for example "resnet*d"')
    parser.add_argument("--names", action="store_true", help="names only, at once: nothing is built")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table, a row as soon as its network is built. Returns the exit code."""
    return script.run(command, build_parser(), argv)


def command(args: argparse.Namespace) -> int:
    names = list_models(args.pattern)
    if not names:
        raise unknown_name("model", args.pattern, REGISTRY)
    if args.names:
        print(json.dumps({"models": names}) if args.json else "\n".join(names))
        return 0
    rows = []
    if not args.json:
        print(TABLE_HEADER + "paper")
    for name in names:
        config, cost = _measure(name)
        if args.json:
            rows.append(
                {
                    "name": name,
                    "group": config.group,
                    "paper": config.paper,
                    "parameters": cost.parameters,
                    "total_parameters": cost.total_parameters,
                    "multiply_adds": cost.multiply_adds,
                    "input_shape": config.input_shape,
                    "feature_maps": cost.feature_maps,
                }
            )
            continue
        print(table_row(name, config.input_shape, cost, config.paper), flush=True)
    if args.json:
        print(json.dumps({"models": rows}))
    return 0


def table_row(name: str, input_shape: tuple[int, ...], cost: "Complexity", paper: str = "") -> str:
    """Returns the line below `TABLE_HEADER` that shows what a network costs."""
    maps = " ".join(f"{height}×{width}×{channels}" for height, width, channels in cost.feature_maps)
    size = "×".join(str(side) for side in input_shape)
    giga = cost.multiply_adds >= 1e9
    count = f"{cost.multiply_adds / (1e9 if giga else 1e6):.{2 if giga else 1}f} {'G' if giga else 'M'}"
    return f"{name:22}{cost.parameters:>13,}{count:>11}  {size:12}{maps:56}{paper}"


def _measure(name: str):
    import keras

    from keras_resnet.models.complexity import complexity
    from keras_resnet.models.resnet import build_model

    config = get_config(name)
    cost = complexity(build_model(config))
    keras.utils.clear_session()
    return config, cost
