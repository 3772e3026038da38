"""Writes the tables of README.md and of three pages (`PAGES`) from the CSV files beside this script.

    python results/tables.py            rewrite them
    python results/tables.py --check    exit 1 if one of them is not what it would write

A table stands between two comments; the first says what is in it:

    <!-- table: FILE.csv | COLUMN, COLUMN as Heading, … [| CLAUSE] -->
    <!-- end table -->

Clauses are `where COLUMN=VALUE`, `mean over COLUMN`, `across COLUMN` and `against COLUMN=VALUE`. `mean over seed` joins
the rows whose words agree: numbers become mean ± standard deviation (of the sample), and the number of rows gets a
column of its own.

`across mark_seconds` gives every value of that column a column, filled with the last one of COLUMNs; the rows are those
that the other columns tell apart. It is done first: what it fills is then averaged.

`against precision=float32` with `mean over seed` compares the other precisions with that one, seed by seed: the last
of COLUMNs becomes the mean of float32, the mean difference from it, and the difference's 95 % interval by Student's t.

A file that is not there yet leaves a line that says so.

The README's one table stands between `<!-- headlines -->` and `<!-- end headlines -->`: the figures of `HEADLINES`.
"""

import csv
import re
import statistics
import sys
from pathlib import Path

RESULTS = Path(__file__).resolve().parent
PAGES = tuple(
    RESULTS.parent / page
    for page in ("README.md", "docs/benchmarks.md", "docs/data.md", "docs/residual_connections.md")
)
HEADLINE_BLOCK = re.compile(r"(<!-- headlines -->\n).*?(<!-- end headlines -->)", re.DOTALL)
# What it is, the figure with its columns (their means count), the file, which of its rows.
HEADLINES = (
    ("Handwritten digits, ResNet-8, test accuracy", "{test_accuracy:.2%}", "digits.csv", {}),
    (
        "CIFAR-10 from 60,000 JPEG files, ResNet-20, test accuracy after 15 minutes",
        "{test_accuracy:.2%}",
        "benchmark_budget.csv",
        {"contestant": "fast_cifar", "mark_seconds": "900"},
    ),
    (
        "The same by PyTorch and He et al.'s recipe",
        "{test_accuracy:.2%}",
        "benchmark_budget.csv",
        {"contestant": "pytorch", "mark_seconds": "900"},
    ),
    (
        "ResNet-20, training beside plain `model.fit`",
        "{ours_times_as_fast:.2f} ×",
        "benchmark_train.csv",
        {"model": "resnet20", "contestant": "plain Keras"},
    ),
    (
        "ResNet-20, training beside PyTorch, float32",
        "{ours_times_as_fast:.2f} ×",
        "benchmark_train.csv",
        {"model": "resnet20", "contestant": "PyTorch", "precision": "float32"},
    ),
    (
        "ResNet-20 by PyTorch's checkpoint, right of 1,017 images of CIFAR-10",
        "{correct:.0f} (in PyTorch {correct_reference:.0f})",
        "weights.csv",
        {"model": "resnet20", "on": "1,017 test images of CIFAR-10"},
    ),
    (
        "ResNet-50, Grad-CAM beside tf-keras-vis",
        "{times_tf_keras_vis_images_per_second:.2f} ×",
        "benchmark_explain.csv",
        {"method": "gradcam_closed_form"},
    ),
    (
        "ResNet-50, SavedModel beside `model.export`, batch 1",
        "{speedup:.2f} ×",
        "benchmark_export.csv",
        {"model": "resnet50", "contestant": "SavedModel", "batch": "1"},
    ),
    (
        "ResNet-50, the same in bfloat16",
        "{speedup:.2f} ×",
        "benchmark_export.csv",
        {"model": "resnet50", "contestant": "SavedModel bfloat16", "batch": "1"},
    ),
    (
        "ResNet-50, int8 `.tflite` beside float32",
        "{speedup:.2f} ×",
        "benchmark_export.csv",
        {"model": "resnet50", "contestant": "tflite int8"},
    ),
    (
        "ResNet-50, int8 `.tflite` with a heat map beside without",
        "{speedup:.2f} ×",
        "benchmark_export.csv",
        {"model": "resnet50", "contestant": "tflite int8 with heat map"},
    ),
)
# Student's t, two-sided 95 %, for 1, 2, … degrees of freedom.
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
BLOCK = re.compile(r"(<!-- table: (?P<spec>.*?) -->\n)(?P<body>.*?)(<!-- end table -->)", re.DOTALL)


def render(text: str) -> str:
    """Returns a page's text with every table written anew."""
    text = HEADLINE_BLOCK.sub(lambda match: match[1] + _headlines() + match[2], text)
    return BLOCK.sub(lambda match: match[1] + _table(match["spec"]) + match[4], text)


def _headlines() -> str:
    lines = ["| what | measured |", "| --- | --- |"]
    for what, figure, file, where in HEADLINES:
        rows = [row for row in _rows(file) if all(row[key] == value for key, value in where.items())]
        if not rows:
            raise ValueError(f"The headline {what!r} has no row in {file}.")
        columns = {name: [_number(row[name]) for row in rows] for name in rows[0]}
        means = {name: statistics.mean(values) for name, values in columns.items() if None not in values}
        lines.append(f"| {what} | {figure.format(**means)} |")
    return "\n".join(lines) + "\n"


def _rows(file: str) -> list[dict]:
    with open(RESULTS / file, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def _table(spec: str) -> str:
    file, columns, *clauses = [part.strip() for part in spec.split("|")]
    if not (RESULTS / file).exists():
        return f"Not measured yet: there is no `results/{file}`.\n"
    rows, over, across, against = _rows(file), None, None, None
    for clause in clauses:
        if clause.startswith("where "):
            key, value = clause.removeprefix("where ").split("=", 1)
            rows = [row for row in rows if row[key] == value]
        elif clause.startswith("mean over "):
            over = clause.removeprefix("mean over ")
        elif clause.startswith("across "):
            across = clause.removeprefix("across ")
        elif clause.startswith("against "):
            against = clause.removeprefix("against ").split("=", 1)
        else:
            raise ValueError(
                f"Unknown clause {clause!r} in a table of {file}: use 'where …', 'mean over …', 'across …' or "
                "'against …'."
            )
    if not rows:
        raise ValueError(f"The table of {file} ({spec}) has no row.")
    names = [column.strip().split(" as ") for column in columns.split(",")]
    keys, headings = [name[0] for name in names], [name[-1] for name in names]
    if across:
        *kept, value = keys
        rows, values = _across(rows, [*kept, over] if over else kept, across, value)
        keys, headings = [*kept, *values], [*headings[:-1], *values]
    if against:
        if not over:
            raise ValueError(f"A table of {file} is 'against …' without 'mean over …'.")
        *kept, value = keys
        rows = _against(rows, kept, *against, value, over)
        keys = [*kept, "_base", "_difference", "_interval", "_count"]
        headings = [*headings[:-1], f"{headings[-1]}, {against[1]}", "difference", "95 % interval", f"{over}s"]
    elif over:
        rows, headings = _means(rows, keys), [*headings, f"{over}s"]
        keys = [*keys, "_count"]
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    lines += ["| " + " | ".join(_cell(row[key]) for key in keys) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _across(rows: list[dict], told_apart_by: list[str], across: str, value: str) -> tuple[list[dict], list[str]]:
    """One row where there was one for each value of `across`, and those values in their order."""
    joined: dict[tuple, dict] = {}
    for row in rows:
        joined.setdefault(tuple(row[key] for key in told_apart_by), dict(row))[row[across]] = row[value]
    values = list(dict.fromkeys(row[across] for row in rows))
    for row in joined.values():
        missing = [name for name in values if name not in row]
        if missing:
            raise ValueError(f"The row of {[row[key] for key in told_apart_by]} has no {value} for {across} {missing}.")
    return list(joined.values()), values


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


def _against(rows: list[dict], kept: list[str], column: str, base: str, value: str, over: str) -> list[dict]:
    """One row where `kept` agrees: how much `value` differs from that of the rows whose `column` is `base`."""
    same = [key for key in kept if key != column]
    bases = {tuple(row[key] for key in [*same, over]): row[value] for row in rows if row[column] == base}
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if row[column] != base:
            groups.setdefault(tuple(row[key] for key in kept), []).append(row)
    compared = []
    for members in groups.values():
        partners = [float(bases[tuple(row[key] for key in [*same, over])]) for row in members]
        differences = [float(row[value]) - partner for row, partner in zip(members, partners, strict=True)]
        mean = statistics.mean(differences)
        interval = ""
        if len(members) > 1:
            half = T_95[len(members) - 2] * statistics.stdev(differences) / len(members) ** 0.5
            interval = f"{mean - half:+.4f} to {mean + half:+.4f}"
        figures = {"_base": f"{statistics.mean(partners):.4f}", "_difference": f"{mean:+.4f}", "_interval": interval}
        compared.append({**members[0], **figures, "_count": str(len(members))})
    return compared


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
    """Rewrites or checks the pages."""
    stale = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        rendered = render(text)
        if "--check" not in argv:
            page.write_text(rendered, encoding="utf-8")
        elif text != rendered:
            stale = 1
            print(
                f"The tables of {page.name} are not those of results/*.csv: run `python results/tables.py`.",
                file=sys.stderr,
            )
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
