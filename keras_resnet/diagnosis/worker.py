"""The process that probes run in: `python worker.py`-like, started by `probing` and nobody else.

It takes the names of functions on standard input, one a line, and answers each with a line of JSON: a finding, or what
was raised instead. A crash ends this process alone.
"""

import contextlib
import dataclasses
import json
import os
import pkgutil
import sys
from typing import Any


def main() -> None:
    """Answers until standard input ends."""
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        # What crashes here was meant to be tried: it need not leave a core file behind.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Libraries may write on standard output: that goes where errors go.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(_answer(line.strip())), file=answers, flush=True)


def _answer(function: str) -> dict[str, Any]:
    try:
        return {"finding": dataclasses.asdict(pkgutil.resolve_name(function)())}
    except Exception as error:
        # Libraries raise anything, and that is what is to be found out.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return {"error": type(error).__name__, "message": lines[0] if lines else ""}
