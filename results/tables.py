"""Writes the README's tables from the CSV files beside this script.

    python results/tables.py            rewrite README.md
    python results/tables.py --check    exit 1 if README.md is not what it would write

A table stands between two comments; the first says what is in it:

    <!-- table: FILE.csv | COLUMN, COLUMN as Heading, … [| where COLUMN=VALUE] [| mean over COLUMN] -->
    <!-- end table -->

`mean over seed` joins the rows whose words agree: numbers become mean ± standard
deviation (of the sample), and the number of rows gets a column of its own.
"""

import csv
import re
import statistics
import sys
from pathlib import Path

RESULTS = Path(__file__).resolve().parent
README = RESULTS.parent / "README.md"
BLOCK = re.compile(r"(<!-- table: (?P<spec>.*?) -->\n)(?P<body>.*?)(<!-- end table -->)", re.DOTALL)


def render(text: str) -> str:
    """Returns the README's text with every table written anew."""
    return BLOCK.sub(lambda match: match[1] + _table(match["spec"]) + match[4], text)


def _table(spec: str) -> str:
    file, columns, *clauses = [part.strip() for part in spec.split("|")]
    with open(RESULTS / file, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    over = None
    for clause in clauses:
        if clause.startswith("where "):
            key, value = clause.removeprefix("where ").split("=", 1)
            rows = [row for row in rows if row[key] == value]
        elif clause.startswith("mean over "):
            over = clause.removeprefix("mean over ")
        else:
            raise ValueError(f"Unknown clause {clause!r} in a table of {file}: use 'where …' or 'mean over …'.")
    if not rows:
        raise ValueError(f"The table of {file} ({spec}) has no row.")
    names = [column.strip().split(" as ") for column in columns.split(",")]
    keys, headings = [name[0] for name in names], [name[-1] for name in names]
    if over:
        rows, headings = _means(rows, keys), [*headings, f"{over}s"]
        keys = [*keys, "_count"]
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    lines += ["| " + " | ".join(_cell(row[key]) for key in keys) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _means(rows: list[dict], keys: list[str]) -> list[dict]:
    numeric = [key for key in keys if all(_number(row[key]) is not None for row in rows)]
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys if key not in numeric), []).append(row)
    joined = []
    for members in groups.values():
        row = {**members[0], "_count": str(len(members))}
        for key in numeric:
            values = [_number(member[key]) for member in members]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            row[key] = _round(values[0]) if not spread else f"{_round(statistics.mean(values))} ± {_round(spread)}"
        joined.append(row)
    return joined


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _round(value: float) -> str:
    """Four significant digits, without an exponent where people do not expect one."""
    return (
        f"{value:.4g}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:,.0f}" if value > 1 else f"{value:.1e}"
    )


def _cell(text: str) -> str:
    number = _number(text)
    # Whole numbers (counts, seeds) stay as they are.
    return text.replace("|", "\\|") if number is None or re.fullmatch(r"[+-]?\d+", text) else _round(number)


def main(argv: list[str]) -> int:
    """Rewrites or checks the README."""
    text = README.read_text(encoding="utf-8")
    rendered = render(text)
    if "--check" in argv:
        if text != rendered:
            print("README.md's tables are not those of results/*.csv: run `python results/tables.py`.", file=sys.stderr)
        return int(text != rendered)
    README.write_text(rendered, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
