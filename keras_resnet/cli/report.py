"""`keras-resnet report RUN`: writes report.html of a finished run anew, from the run directory and its data set."""

import argparse
import json
from collections.abc import Sequence

from keras_resnet.cli import script
from keras_resnet.training.records import read_record


def build_parser() -> script.Parser:
    """Returns the parser."""
    parser = script.Parser(prog="keras-resnet report", description=__doc__)
    parser.add_argument("run", help="the run directory")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page and returns the exit code."""
    return script.run(_report, build_parser(), argv)


def _report(arguments: argparse.Namespace) -> None:
    read_record(arguments.run)  # a typing mistake is answered before TensorFlow is loaded

    from keras_resnet.backends import require_backend

    require_backend()
    from keras_resnet.training.report import rewrite_report

    page = rewrite_report(arguments.run).run.report
    print(json.dumps({"report": str(page)}) if arguments.json else f"written to {page}")
