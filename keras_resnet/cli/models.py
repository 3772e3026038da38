"""`keras-resnet models [PATTERN]`: what networks there are, what each costs, and what weights are published for it."""

import argparse
import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keras_resnet.cli import script
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.config_files import is_config_file
from keras_resnet.models.costs import Complexity, recorded_cost
from keras_resnet.models.registry import REGISTRY, get_config, list_models
from keras_resnet.weights.catalog import CATALOG, PublishedWeights

TABLE_HEADER = f"{'name':22}{'parameters':>13}{'mult-adds':>11}  {'input':12}{'feature maps':56}"
WEIGHTS_HEADER = f"{'top-1':>7}{'weights':>9}  paper"
SUFFIXES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}


class Row:
    """A network, what it costs and what weights there are for it.

    Attributes:
        config: Its configuration.
        weights: Its published weights.
    """

    def __init__(self, config: ResNetConfig):
        self.config = config
        self.weights = tuple(entry for entry in CATALOG if entry.model == config.name)

    @functools.cached_property
    def cost(self) -> Complexity:
        """What the network costs at its own input size; where that is not recorded, Keras is loaded."""
        recorded = recorded_cost(self.config)
        if recorded is not None:
            return recorded
        from keras_resnet.models.complexity import measure

        return measure(self.config)

    @property
    def best(self) -> PublishedWeights | None:
        """The published weights of the highest top-1 accuracy on ImageNet-1k; None where none is published."""
        known = [entry for entry in self.weights if entry.top1 is not None and entry.classes == 1000]
        return max(known, key=lambda entry: entry.top1, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as JSON can hold it."""
        return {
            "name": self.config.name,
            "group": self.config.group,
            "paper": self.config.paper,
            "parameters": self.cost.parameters,
            "total_parameters": self.cost.total_parameters,
            "multiply_adds": self.cost.multiply_adds,
            "input_shape": self.config.input_shape,
            "feature_maps": self.cost.feature_maps,
            "top1": self.best.top1 if self.best else None,
            "top1_weights": self.best.tag if self.best else None,
            "weights": [
                {
                    "tag": entry.tag,
                    "data_set": entry.data_set,
                    "classes": entry.classes,
                    "size": entry.size,
                    "top1": entry.top1,
                    "top5": entry.top5,
                    "licence": entry.licence,
                    "url": entry.url,
                }
                for entry in self.weights
            ],
        }


# --sort → (a row's value, None where it has none; whether the highest comes first).
ORDERS: dict[str, tuple[Callable[[Row], Any], bool]] = {
    "name": (lambda row: _as_people_count(row.config.name), False),
    "params": (lambda row: row.cost.parameters, False),
    "macs": (lambda row: row.cost.multiply_adds, False),
    "top1": (lambda row: row.best.top1 if row.best else None, True),
}


def build_parser() -> script.Parser:
    """Builds the parser; imports nothing heavy."""
    parser = script.Parser(prog="keras-resnet models", description=__doc__)
    parser.add_argument(
        "pattern", nargs="?", default="*", help='shell-style pattern, as "resnet*d", or a .json file of one of your own'
    )
    chosen = parser.add_argument_group("which")
    for name, what in (("params", "parameters"), ("macs", "multiply-adds")):
        chosen.add_argument(f"--min-{name}", type=amount, metavar="N", help=f"at least so many {what}, as 500K or 4.1G")
        chosen.add_argument(f"--max-{name}", type=amount, metavar="N", help=f"at most so many {what}")
    chosen.add_argument("--group", help="of this group alone, as ResNeXt")
    chosen.add_argument("--pretrained", action="store_true", help="only those with published weights")
    shown = parser.add_argument_group("how")
    shown.add_argument(
        "--sort", choices=tuple(ORDERS), help="smallest first, for top1 the highest; default: the table's order"
    )
    shown.add_argument("--reverse", action="store_true", help="the other way round")
    shown.add_argument("--weights", action="store_true", help="below each network its published weights")
    shown.add_argument("--names", action="store_true", help="names only")
    shown.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the networks that are asked for. Returns the exit code."""
    return script.run(command, build_parser(), argv)


def command(args: argparse.Namespace) -> int:
    rows = _chosen(args)
    if args.sort:
        rows = _sorted(rows, args.sort, args.reverse)
    elif args.reverse:
        rows = reversed(list(rows))
    if args.json:
        found = [row.config.name for row in rows] if args.names else [row.to_dict() for row in rows]
        print(json.dumps({"models": found}))
        return 0
    if not args.names:
        print(f"{TABLE_HEADER}{WEIGHTS_HEADER}")
    is_empty = True
    for row in rows:
        print("\n".join([row.config.name] if args.names else _lines(row, args.weights)), flush=True)
        is_empty = False
    if is_empty and not args.names:
        print("No network is like that.")
    return 0


def amount(text: str) -> float:
    """Reads a number with a suffix: 500K, 25.6M, 4.1G."""
    found = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)([KMG]?)", text.strip(), re.IGNORECASE)
    try:
        number = float(found[1]) * SUFFIXES[found[2].upper()]
    except (TypeError, ValueError):
        number = math.inf
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a number like 25600000, 500K, 25.6M or 4.1G, got {text!r}")
    return number


def table_row(name: str, input_shape: tuple[int, ...], cost: Complexity) -> str:
    """Returns the line below `TABLE_HEADER` that shows what a network costs."""
    maps = " ".join(f"{height}×{width}×{channels}" for height, width, channels in cost.feature_maps)
    size = "×".join(str(side) for side in input_shape)
    giga = cost.multiply_adds >= 1e9
    count = f"{cost.multiply_adds / (1e9 if giga else 1e6):.{2 if giga else 1}f} {'G' if giga else 'M'}"
    return f"{name:22}{cost.parameters:>13,}{count:>11}  {size:12}{maps:56}"


def _chosen(args: argparse.Namespace) -> Iterable[Row]:
    """The rows that are asked for; what is wrong is told before the first."""
    for name in ("params", "macs"):
        least, most = getattr(args, f"min_{name}"), getattr(args, f"max_{name}")
        if least is not None and most is not None and least > most:
            raise UserError(f"--min-{name} must be at most --max-{name} ({most:,.0f}), got {least:,.0f}.")
    if is_config_file(args.pattern):
        rows = [Row(get_config(args.pattern))]
    else:
        rows = [Row(REGISTRY[name]) for name in list_models(args.pattern)]
        if not rows:
            raise unknown_name("model", args.pattern, REGISTRY)
    if args.group is not None:
        groups = {config.group.lower(): config.group for config in REGISTRY.values()}
        if args.group.lower() not in groups:
            raise unknown_name("group", args.group, groups)
        rows = [row for row in rows if row.config.group == groups[args.group.lower()]]
    if args.pretrained:
        rows = [row for row in rows if row.weights]
    limits = (args.min_params, args.max_params, args.min_macs, args.max_macs)
    if limits == (None,) * 4:
        return rows
    return (
        row
        for row in rows
        if _within(row.cost.parameters, args.min_params, args.max_params)
        and _within(row.cost.multiply_adds, args.min_macs, args.max_macs)
    )


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _sorted(rows: Iterable[Row], order: str, reverse: bool) -> list[Row]:
    """Rows without the value come last in either direction."""
    value, is_highest_first = ORDERS[order]
    known, unknown = [], []
    for row in rows:
        (unknown if value(row) is None else known).append(row)
    return sorted(known, key=value, reverse=is_highest_first != reverse) + unknown


def _as_people_count(name: str) -> list[Any]:
    """A name that stands where its numbers put it: resnet50 before resnet101."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


def _lines(row: Row, with_weights: bool) -> list[str]:
    top1, count = f"{row.best.top1:.2f}" if row.best else "–", len(row.weights) or "–"
    line = table_row(row.config.name, row.config.input_shape, row.cost)
    lines = [f"{line}{top1:>7}{count:>9}  {row.config.paper}"]
    if with_weights:
        for entry in row.weights:
            accuracies = "  ".join(
                f"{name} {'–' if value is None else f'{value:.2f}'}"
                for name, value in (("top-1", entry.top1), ("top-5", entry.top5))
            )
            lines.append(f"  {entry.tag:42}{accuracies:28}{entry.data_set:14}{entry.size:>4} px  {entry.licence}")
    return lines
