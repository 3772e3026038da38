"""What every command of benchmark.py does: its parser, its table, and the rows that it appends to a file of results."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from keras_resnet import provenance
from keras_resnet.cli import script
from keras_resnet.storage import append_rows, read_rows

Rows = list[dict[str, Any]]


def positive(text: str) -> float:
    """Reads a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return number


def add_seeds(parser: script.Parser, *, default: int) -> None:
    """Adds --seeds."""
    parser.add_argument("--seeds", type=script.positive_int, default=default, help="how often each trains")


def continued_file(arguments: argparse.Namespace, verb: str, given: Sequence[str] | None) -> dict[str, Callable]:
    """`is_known` and `save` of a long benchmark, which continues where the file of `--results` ends."""
    known = read_rows(arguments.results) if arguments.results else []

    def is_known(row: dict[str, Any]) -> bool:
        found = any(all(old.get(key) == str(value) for key, value in row.items()) for old in known)
        if found:
            print(f"{arguments.results} has it already: {', '.join(map(str, row.values()))}.", file=sys.stderr)
        return found

    return {"is_known": is_known, "save": lambda rows: _save(verb, rows, arguments, given)}


def create_parser(verb: str, description: str) -> script.Parser:
    """Builds the parser of a benchmark, with the options that all have."""
    parser = script.Parser(prog=f"benchmark.py {verb}", description=description)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--results", metavar="FILE.csv", help="append the figures as rows to this file")
    return parser


def need_tensorflow() -> None:
    """Raises a UserError where Keras runs on another backend."""
    from keras_resnet.backends import require_tensorflow

    require_tensorflow("This benchmark")


def run(
    verb: str,
    measure: Callable[[argparse.Namespace], Rows],
    parser: script.Parser,
    argv: Sequence[str] | None,
    *,
    saves: bool = False,
) -> int:
    """Runs a benchmark; `saves` says that it saves its rows by itself, as they come."""

    def command(arguments: argparse.Namespace) -> None:
        try:
            rows = measure(arguments)
        except KeyboardInterrupt as interrupt:
            if not (saves and arguments.results):
                raise
            kept = f"Interrupted. Run it again: what {arguments.results} has is not measured anew."
            raise type(interrupt)(kept) from None
        _report(verb, rows, arguments)
        if not saves:
            _save(verb, rows, arguments, argv)

    return script.run(command, parser, argv)


def _report(verb: str, rows: Rows, arguments: argparse.Namespace) -> None:
    """Prints the rows, which have the same columns."""
    if arguments.json:
        print(json.dumps({"benchmark": verb, "rows": rows, **provenance.result_row()}))
    elif rows:
        cells = [[str(value) for value in row.values()] for row in rows]
        heads = [column.replace("_", " ") for column in rows[0]]
        widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
        for line in (heads, *cells):
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _save(verb: str, rows: Rows, arguments: argparse.Namespace, given: Sequence[str] | None) -> None:
    """Appends rows to the file of `--results`."""
    if arguments.results:
        command = provenance.command("benchmark.py", [verb, *(sys.argv[2:] if given is None else given)])
        append_rows(arguments.results, [{"command": command, **row, **provenance.result_row()} for row in rows])
