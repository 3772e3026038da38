"""`keras-resnet plot NAME|FILE.json [FILE.png]`: a network's stages as a picture."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from keras_resnet.cli import script
from keras_resnet.errors import UserError
from keras_resnet.models.registry import get_config


def build_parser() -> script.Parser:
    """Builds the parser; imports nothing heavy."""
    parser = script.Parser(prog="keras-resnet plot", description=__doc__)
    parser.add_argument("name", help="a registry name, see `keras-resnet models`, or a .json file of one of your own")
    parser.add_argument("file", nargs="?", default=None, help="where the PNG goes (default: NAME.png)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the network at its default input size. Returns the exit code."""
    return script.run(command, build_parser(), argv)


def command(args: argparse.Namespace) -> int:
    config = get_config(args.name)
    path = Path(args.file or f"{config.name}.png")
    if path.suffix.lower() != ".png":
        raise UserError(f"The picture is written as PNG, got {path}: end its name in .png.")
    if not path.parent.is_dir():
        raise UserError(f"The picture's folder must exist, got {path}: make {path.parent} first.")

    from keras_resnet.models.complexity import cost_of
    from keras_resnet.models.diagram import draw_network

    draw_network(config, cost_of(config), path)
    print(path)
    return 0
