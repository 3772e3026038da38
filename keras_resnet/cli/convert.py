"""`keras-resnet convert`: weights of PyTorch or keras.applications to a `.keras` file, and back to PyTorch."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from keras_resnet.choices import HEADS, NAMINGS
from keras_resnet.cli import script
from keras_resnet.errors import UserError
from keras_resnet.models.registry import get_config

# What --to stands for. The suffix of the output alone decides where the flag is left out.
TARGETS = {"keras": (".keras",), "torch": (".pth", ".th", ".pt", ".bin", ".safetensors")}


def build_parser() -> script.Parser:
    """Returns the parser."""
    parser = script.Parser(
        prog="keras-resnet convert",
        description="Converts weights, checks that every variable was set exactly once, reads the written file again "
        "and compares it. Nothing in a source is executed.",
    )
    parser.add_argument(
        "source",
        help="checkpoint of PyTorch (.pth .th .pt .bin .safetensors), keras.applications' weights (.h5 .keras), a "
        ".keras file of ours, or a tag such as torchvision:IMAGENET1K_V2",
    )
    parser.add_argument("output", help="what to write: NAME.keras, or NAME.pth and the like for PyTorch")
    parser.add_argument("--model", metavar="NAME", help="the network; not needed for a .keras file of ours")
    parser.add_argument("--to", choices=tuple(TARGETS), help="what to write; default: as OUTPUT's suffix says")
    parser.add_argument(
        "--num-classes", type=script.positive_int, metavar="N", help="width of the logits; default: the source's"
    )
    parser.add_argument(
        "--channels", type=script.positive_int, metavar="N", help="channels of the input; default: the source's"
    )
    parser.add_argument("--head", choices=HEADS, default="auto", help="new: do not take the source's classifier")
    parser.add_argument(
        "--preprocessing-of", metavar="TAG", help="published weights with whose preprocessing the source was trained"
    )
    parser.add_argument("--labels", type=Path, metavar="FILE", help="class names, one per line, in the logits' order")
    parser.add_argument("--naming", choices=NAMINGS, help="spelling of a state dict's names; default: the usual one")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Converts and returns the exit code."""
    return script.run(_convert, build_parser(), argv)


def _convert(arguments: argparse.Namespace) -> None:
    model = arguments.model
    if model is not None:
        get_config(model)
    elif not arguments.source.endswith(".keras"):
        raise UserError("Name the network with --model, for example --model resnet50.")
    suffix = Path(arguments.output).suffix
    if arguments.to and suffix not in TARGETS[arguments.to]:
        raise UserError(f"--to {arguments.to} writes {', '.join(TARGETS[arguments.to])}, got {arguments.output!r}.")
    labels = _read_labels(arguments.labels) if arguments.labels else ()

    from keras_resnet.backends import require_tensorflow

    require_tensorflow("Converting weights")
    from keras_resnet.weights.conversion import convert

    done = convert(
        arguments.source,
        arguments.output,
        model_name=model,
        num_classes=arguments.num_classes,
        channels=arguments.channels,
        head=arguments.head,
        preprocessing_of=arguments.preprocessing_of,
        labels=labels,
        naming=arguments.naming,
    )
    if arguments.json:
        print(json.dumps(dataclasses.asdict(done), ensure_ascii=False))
        return
    print(f"{done.output}: {done.model}, {done.variables} variables of {done.source}, {done.parameters:,} numbers.")
    print(f"Read again it differs by {done.max_difference:g}.")
    for remark in done.remarks:
        print(remark)


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        return tuple(line for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read the labels in {path}: {getattr(error, 'strerror', None) or error}.") from None
