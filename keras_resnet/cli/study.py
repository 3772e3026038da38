"""`keras-resnet study WHAT`: questions about residual networks, answered by training some."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_resnet import provenance
from keras_resnet.cli import script
from keras_resnet.cli.measuring import positive
from keras_resnet.storage import write_text
from keras_resnet.study.kinds import KINDS, check_networks

if TYPE_CHECKING:
    from keras_resnet.study.depth import StudyFolder

STUDIES = {"depth": ("keras_resnet.cli.study:study_depth", "plain and residual networks, from 8 to 110 layers")}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study that the first argument names and returns the exit code."""
    return script.dispatch("keras-resnet study", STUDIES, argv)


def build_parser() -> script.Parser:
    """Returns the parser of `study depth`."""
    parser = script.Parser(
        prog="keras-resnet study depth",
        description="Trains plain and residual networks alike and measures errors by depth, the gradient of each "
        "layer, what happens when single blocks are deleted, and the loss along a random direction. Writes a page "
        "with figures. The same command again goes on where it stopped; more depths, kinds and seeds can be added.",
    )
    parser.add_argument("--dataset", default="digits", help="data set, as train.py takes it: digits, npz:PATH, …")
    parser.add_argument("--image-size", type=script.positive_int, metavar="N", help="side of the network input")
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 20, 32, 56, 110], metavar="N", help="6n + 2 each")
    parser.add_argument("--kinds", nargs="+", default=["plain", "residual"], metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--seeds", type=script.positive_int, default=1, metavar="N", help="how often each trains")
    parser.add_argument("--epochs", type=script.positive_int, default=15, help="passes over the training images")
    parser.add_argument("--batch-size", type=script.at_least(2), default=64, help="images per step")
    parser.add_argument("--learning-rate", type=positive, default=0.1, help="highest learning rate")
    parser.add_argument("--budget", type=positive, metavar="MINUTES", help="begin no network after so long")
    parser.add_argument("--output", default="study", metavar="FOLDER", help="where page, figures and results go")
    parser.add_argument("--dry-run", action="store_true", help="list the networks and what is finished; train nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output instead of a table")
    return parser


def study_depth(argv: Sequence[str] | None = None) -> int:
    """`keras-resnet study depth`."""
    given = list(sys.argv[3:] if argv is None else argv)
    return script.run(lambda arguments: _study_depth(arguments, given), build_parser(), given)


def _study_depth(arguments: argparse.Namespace, given: list[str]) -> None:
    check_networks(arguments.kinds, arguments.depths)
    script.check_data_set(arguments.dataset)

    from keras_resnet.backends import require_tensorflow

    require_tensorflow("The study measures gradients and")
    import math

    from keras_resnet.progress import ProgressBar
    from keras_resnet.study.depth import Network, StudyFolder, StudySettings, run_study

    networks = sorted(
        Network(seed, depth, kind)
        for seed in range(arguments.seeds)
        for depth in set(arguments.depths)
        for kind in set(arguments.kinds)
    )
    folder = StudyFolder(arguments.output)
    settings = StudySettings(
        dataset=arguments.dataset,
        image_size=arguments.image_size,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
    )
    left = [network for network in networks if not folder.file(network).is_file()]
    command = provenance.command("-m", ["keras_resnet", "study", "depth", *given])
    if not arguments.dry_run:
        try:
            left = run_study(
                settings,
                networks,
                folder,
                budget_seconds=60 * arguments.budget if arguments.budget else math.inf,
                progress=ProgressBar(2 * len(left)),
                provenance=lambda: {"command": command, **provenance.result_row()},
            )
        except KeyboardInterrupt as interrupt:
            kept = f"Interrupted. Run it again: networks that {folder.path} has are not trained anew."
            raise type(interrupt)(kept) from None
    found = folder.read(networks)
    if found and not arguments.dry_run:
        _write_page(folder, found, [network.name for network in left], command)
    rows = [each["row"] for each in found]
    if arguments.json:
        print(json.dumps({"networks": rows, "left": [network.name for network in left], "output": arguments.output}))
        return
    _print_table(rows)
    if left:
        print(f"\n{len(left)} left: {', '.join(network.name for network in left)}. The same command goes on with them.")


def _write_page(folder: "StudyFolder", found: list[dict], left: list[str], command: str) -> None:
    from keras_resnet.study.page import draw_figures, study_page
    from keras_resnet.training.figures import standalone

    figures = draw_figures(found)
    for figure in (figure for section in figures.values() for figure in section):
        write_text(folder.path / "figures" / f"{figure.name}.svg", standalone(figure.svg))
    write_text(folder.path / "study.html", study_page(found, left, figures, command))
    print(f"{folder.path / 'study.html'} written.", file=sys.stderr)


def _print_table(rows: list[dict]) -> None:
    columns = (
        "kind",
        "depth",
        "seed",
        "state",
        "training_error",
        "test_error",
        "error_with_a_block_deleted",
        "seconds",
    )
    lines = [[column.replace("_", " ") for column in columns], *([str(row[key]) for key in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines if rows else []:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
