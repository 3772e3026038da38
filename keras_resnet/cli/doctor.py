"""`keras-resnet doctor`: whether the default training works on this machine, and what to do where it does not."""

import argparse
import dataclasses
import json
import shutil
import textwrap
from collections.abc import Sequence

from keras_resnet.cli import script
from keras_resnet.diagnosis.examination import examine
from keras_resnet.diagnosis.findings import NOTE, PROBLEM, Finding, training_works

_STATUS_WIDTH, _CHECK_WIDTH, _WIDEST = 9, 21, 120


def build_parser() -> script.Parser:
    """Returns the parser."""
    parser = script.Parser(
        prog="keras-resnet doctor",
        description="Looks at versions, devices, oneDNN, XLA, bfloat16, disks and extras, trains for two epochs into a "
        "temporary folder, and tries the known pitfalls of the installed libraries. Exit code 0: the default training "
        "works here; 1: it does not.",
    )
    parser.add_argument("--quick", action="store_true", help="leave out the known pitfalls")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Examines, prints a row as soon as it is known, and returns the exit code."""
    return script.run(_examine, build_parser(), argv)


def _examine(arguments: argparse.Namespace) -> int:
    findings = []
    for finding in examine(quick=arguments.quick):
        findings.append(finding)
        if not arguments.json:
            print(_row(finding), flush=True)
    works = training_works(findings)
    if arguments.json:
        from keras_resnet import provenance

        rows = [dataclasses.asdict(finding) for finding in findings]
        about = {"versions": provenance.versions(), "hardware": provenance.hardware()}
        print(json.dumps({"training_works": works, "findings": rows, **about}))
    else:
        print("\n" + _summary(findings))
    return 0 if works else 1


def _row(finding: Finding) -> str:
    indent = " " * (_STATUS_WIDTH + _CHECK_WIDTH)
    width = max(60, min(shutil.get_terminal_size().columns, _WIDEST)) - len(indent)
    lines = [*textwrap.wrap(finding.found, width, break_on_hyphens=False)]
    if finding.advice:
        lines += textwrap.wrap(f"→ {finding.advice}", width, subsequent_indent="  ", break_on_hyphens=False)
    first, *others = lines or [""]
    head = f"{finding.status:{_STATUS_WIDTH}}{finding.check:{_CHECK_WIDTH}}{first}"
    return "\n".join([head.rstrip(), *(indent + line for line in others)])


def _summary(findings: list[Finding]) -> str:
    counts = [
        f"{count} {word}{'' if count == 1 else 's'}"
        for word in (PROBLEM, NOTE)
        if (count := sum(finding.status == word for finding in findings))
    ]
    counted = f" ({', '.join(counts)})" if counts else ""
    if training_works(findings):
        return f"The default training works here{counted}."
    stopping = ", ".join(finding.check for finding in findings if finding.stops_training)
    return f"The default training does not work here: see {stopping}{counted}."
