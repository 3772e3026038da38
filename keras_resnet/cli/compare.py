"""`keras-resnet compare RUN RUN ...`: runs side by side, as tables and as a page with their curves over each other."""

import argparse
import json
import sys
from collections.abc import Sequence

from keras_resnet.cli import script
from keras_resnet.storage import write_text
from keras_resnet.training.records import read_record


def build_parser() -> script.Parser:
    """Returns the parser."""
    parser = script.Parser(prog="keras-resnet compare", description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run directory; it may be unfinished")
    parser.add_argument("--output", metavar="FILE.html", help="where to write the page; default: no page")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output instead of tables")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compares and returns the exit code."""
    return script.run(_compare, build_parser(), argv)


def _compare(arguments: argparse.Namespace) -> None:
    records = [read_record(path) for path in arguments.runs]

    from keras_resnet.training.comparison import compare_runs, comparison_page, comparison_text

    comparison = compare_runs(records)
    if arguments.output:
        write_text(arguments.output, comparison_page(records))
    if arguments.json:
        print(json.dumps(comparison, ensure_ascii=False))
    else:
        print(comparison_text(comparison))
    if arguments.output:
        print(f"\nwritten to {arguments.output}", file=sys.stderr if arguments.json else sys.stdout)
