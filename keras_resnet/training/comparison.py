"""Several runs side by side: their curves over each other, their results, and where their settings differ."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from keras_resnet.models.config_files import is_config_file
from keras_resnet.pages import SERIES, render_page
from keras_resnet.progress import duration
from keras_resnet.training.figures import Curve, line_chart
from keras_resnet.training.records import RunRecord

# Column of metrics.csv → its heading, and whether it is a part of 1.
_CHARTS = {
    "val_accuracy": ("Validation accuracy", True),
    "val_loss": ("Validation loss", False),
    "accuracy": ("Training accuracy", True),
    "loss": ("Training loss", False),
    "learning_rate": ("Learning rate", False),
}
_UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))
_NONE = "–"


def compare_runs(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Compares runs.

    Args:
        records: From `keras_resnet.training.records.read_record`.

    Returns:
        A dictionary that JSON can hold: "runs", the results of each in order (numbers, None where a run is unfinished);
        and "differences", setting or version → the value in each run, for those that are not the same in all.
    """
    return {
        "runs": [_result(name, record) for name, record in zip(_names(records), records, strict=True)],
        "differences": _differences(records),
    }


def comparison_text(comparison: dict[str, Any]) -> str:
    """Returns a comparison as two tables for people."""
    runs = comparison["runs"]
    headings = ("run", "test accuracy", "best epoch", "validation", "epochs", "time", "CPU time")
    tables = [_table([headings, *(tuple(_cells(run).values()) for run in runs)])]
    if len(runs) > 1:
        rows = [(name, *map(_text, values)) for name, values in comparison["differences"].items()]
        names = ("setting", *(run["run"] for run in runs))
        tables.append(_table([names, *rows]) if rows else "Settings and versions are the same in all runs.")
    return "\n\n".join(tables)


def comparison_page(records: Sequence[RunRecord]) -> str:
    """Returns a comparison as an HTML page that holds all it shows.

    Args:
        records: The runs.

    Returns:
        The HTML text.
    """
    comparison = compare_runs(records)
    return render_page(
        "compare.html.jinja",
        title="Runs compared",
        subtitle=f"{len(records)} runs",
        runs=[
            {"cells": _cells(run), "state": run["state"], "series": number % SERIES, "is_dashed": number >= SERIES}
            for number, run in enumerate(comparison["runs"])
        ],
        best=_best(comparison["runs"]),
        charts=[_chart(records, column) for column in _CHARTS],
        differences={name: [_text(value) for value in values] for name, values in comparison["differences"].items()},
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _names(records: Sequence[RunRecord]) -> list[str]:
    """The names of the runs' directories; paths, where two directories have one name."""
    names = [record.name for record in records]
    return names if len(set(names)) == len(names) else [str(record.run.path) for record in records]


def _result(name: str, record: RunRecord) -> dict[str, Any]:
    best, metrics = record.best_epoch, record.metrics or {}
    return {
        "run": name,
        "path": str(record.run.path),
        "state": "finished" if record.metrics is not None else "unfinished",
        "test_accuracy": metrics.get("top1"),
        "best_epoch": best,
        "validation_accuracy": record.best_row["val_accuracy"] if record.best_row else None,
        "epochs": len(record.epochs),
        "epochs_planned": record.settings["epochs"],
        # A run that is not finished has only its epochs' own times.
        "seconds": metrics.get("training_seconds", round(sum(record.column("seconds")), 1)),
        "cpu_seconds": metrics.get("training_cpu_seconds"),
    }


def _cells(run: dict[str, Any]) -> dict[str, str]:
    """The result of a run as text."""

    def shown(value: Any, text: str) -> str:
        return _NONE if value is None else text.format(value)

    return {
        "run": run["run"],
        "test_accuracy": "unfinished" if run["state"] == "unfinished" else shown(run["test_accuracy"], "{:.2%}"),
        "best_epoch": shown(run["best_epoch"], "{}"),
        "validation_accuracy": shown(run["validation_accuracy"], "{:.2%}"),
        "epochs": f"{run['epochs']} of {run['epochs_planned']}",
        "time": duration(run["seconds"]),
        "cpu_time": _NONE if run["cpu_seconds"] is None else duration(run["cpu_seconds"]),
    }


def _best(runs: Sequence[dict[str, Any]]) -> str | None:
    """The text of the highest test accuracy, where there are several to choose from."""
    known = [run["test_accuracy"] for run in runs if run["test_accuracy"] is not None]
    return f"{max(known):.2%}" if len(known) > 1 else None


def _differences(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    columns = [
        {
            "recipe": record.based_on,
            **record.settings,
            # Files of one name may differ.
            **({"network": record.network.get("paper")} if is_config_file(record.settings["model"]) else {}),
            "data fingerprint": record.dataset.get("fingerprint", "")[:12],
            **record.versions,
            "hardware": record.hardware,
            "commit": record.commit,
        }
        for record in records
    ]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = {name: [column.get(name) for column in columns] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def _chart(records: Sequence[RunRecord], column: str) -> dict[str, Any]:
    title, percent = _CHARTS[column]

    def drawn(by_time: bool) -> Any:
        curves = []
        for number, record in enumerate(records):
            best = record.epochs.index(record.best_row) if record.best_row else None
            times = [seconds / unit for seconds in itertools.accumulate(record.column("seconds"))]
            curves.append(
                Curve(
                    times if by_time else record.column("epoch"),
                    record.column(column),
                    series=number % SERIES,
                    dashed=number >= SERIES,
                    marked=best if column.startswith("val") else None,
                )
            )
        return line_chart(
            curves,
            x_label=unit_name if by_time else "epoch",
            alternative=f"{title} of {len(records)} runs by {'time' if by_time else 'epoch'}",
            percent=percent,
            whole=not by_time,
        )

    longest = max((sum(record.column("seconds")) for record in records), default=0)
    unit, unit_name = next((unit, name) for unit, name in _UNITS if longest >= 2 * unit or unit == 1)
    return {"title": title, "by_epoch": drawn(False), "by_time": drawn(True)}


def _text(value: Any) -> str:
    if value is None or value == "":
        return _NONE
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns, the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for number, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
