"""The study of depth as figures, one page and SVG files."""

import math
import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from markupsafe import Markup

from keras_resnet.pages import SERIES, render_page
from keras_resnet.study.kinds import KINDS
from keras_resnet.training.figures import Curve, line_chart

Found = dict[str, Any]  # what the file of a network holds, see `depth._examine`


class Figure(NamedTuple):
    """A figure of the page.

    Attributes:
        name: Name of its file, without ".svg".
        title: What it shows.
        svg: The figure, as `training.figures.line_chart` draws it.
    """

    name: str
    title: str
    svg: Markup


def draw_figures(networks: Sequence[Found]) -> dict[str, list[Figure]]:
    """Draws what a study has found.

    Args:
        networks: From `StudyFolder.read`, at least one.

    Returns:
        Section of the page → its figures: "depth", and "gradients", "deletions" and "directions" with a figure a depth.
        Several seeds of a network are averaged.
    """
    depths = sorted({network["row"]["depth"] for network in networks})
    kinds = _kinds(networks)
    return {
        "depth": [
            _by_depth(networks, kinds, "training_error", "Training error, networks as they are afterwards"),
            _by_depth(networks, kinds, "error_in_last_epoch", "Error in the last epoch of training"),
            _by_depth(networks, kinds, "test_error", "Test error"),
            *(_by_epoch(networks, kind) for kind in kinds),
        ],
        "gradients": _each_depth(networks, depths, _gradients),
        "deletions": _each_depth(networks, depths, _deletions),
        "directions": _each_depth(networks, depths, _directions),
    }


def study_page(networks: Sequence[Found], left: Sequence[str], figures: dict[str, list[Figure]], command: str) -> str:
    """Returns a study as an HTML page that holds all it shows.

    Args:
        networks: From `StudyFolder.read`, at least one.
        left: Names of the networks that are not finished.
        figures: From `draw_figures`.
        command: The command line.
    """
    rows = [network["row"] for network in networks]
    first = rows[0]
    return render_page(
        "study.html.jinja",
        title="Plain and residual networks",
        subtitle=f"{len(rows)} networks on {first['dataset']}, {first['epochs']} epochs each, "
        f"{first['image_size']} × {first['image_size']} pixels, learning rate {first['learning_rate']:g}",
        figures=figures,
        rows=[{**row, "title": KINDS[row["kind"]].title} for row in rows],
        columns={
            "depth": "layers",
            "seed": "seed",
            "parameters": "parameters",
            "training_error": "training error",
            "error_in_last_epoch": "error in the last epoch",
            "test_error": "test error",
            "first_to_last_gradient": "first to last gradient",
            "error_with_a_block_deleted": "error with a block deleted",
            "worst_deletion": "worst deletion",
        },
        percents=(
            "training_error",
            "error_in_last_epoch",
            "test_error",
            "error_with_a_block_deleted",
            "worst_deletion",
        ),
        left=left,
        command=command,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _kinds(networks: Sequence[Found]) -> list[str]:
    there = {network["row"]["kind"] for network in networks}
    return [kind for kind in KINDS if kind in there]


def _series(kind: str) -> int:
    return list(KINDS).index(kind) % SERIES


def _by_depth(networks: Sequence[Found], kinds: Sequence[str], column: str, title: str) -> Figure:
    curves = []
    for kind in kinds:
        values: dict[int, list[float]] = {}
        for network in networks:
            row = network["row"]
            if row["kind"] == kind and row[column] != "":  # one that diverged has none
                values.setdefault(row["depth"], []).append(row[column])
        means = [statistics.fmean(values[depth]) for depth in sorted(values)]
        if means:
            curves.append(Curve(sorted(values), means, _series(kind), label=KINDS[kind].title, dotted=True))
    svg = line_chart(curves, x_label="layers", alternative=f"{title} by depth", percent=True, whole=True)
    return Figure(f"depth_{column}", title, svg)


def _by_epoch(networks: Sequence[Found], kind: str) -> Figure:
    """He 2015, figure 6: how the error falls, a curve a depth."""
    those = [network for network in networks if network["row"]["kind"] == kind and network["errors"]]
    curves = []
    for number, depth in enumerate(sorted({network["row"]["depth"] for network in those})):
        courses = [network["errors"] for network in those if network["row"]["depth"] == depth]
        shortest = min(map(len, courses))
        means = [statistics.fmean(course[epoch] for course in courses) for epoch in range(shortest)]
        curves.append(Curve(range(1, shortest + 1), means, number % SERIES, label=f"{depth} layers"))
    title = f"Error while training: {KINDS[kind].title}"
    svg = line_chart(curves, x_label="epoch", alternative=title, percent=True, whole=True)
    return Figure(f"course_{kind}", title, svg)


def _each_depth(
    networks: Sequence[Found], depths: Sequence[int], draw: Callable[[Sequence[Found], int], Figure | None]
) -> list[Figure]:
    drawn = [draw([network for network in networks if network["row"]["depth"] == depth], depth) for depth in depths]
    return [figure for figure in drawn if figure is not None]


def _gradients(networks: Sequence[Found], depth: int) -> Figure:
    curves = []
    for kind in _kinds(networks):
        for key, when in (("gradients_start", "before training"), ("gradients_end", "after")):
            norms = _mean_of(networks, kind, lambda network, key=key: network[key] and list(network[key].values())[:-1])
            if norms:
                label = f"{KINDS[kind].title}, {when}"
                positions = range(1, len(norms) + 1)
                curves.append(Curve(positions, norms, _series(kind), dashed=key == "gradients_end", label=label))
    title = f"Gradient of each convolution, {depth} layers"
    svg = line_chart(curves, x_label="convolution, from the input on", alternative=title, whole=True, logarithmic=True)
    return Figure(f"gradients_{depth}", title, svg)


def _deletions(networks: Sequence[Found], depth: int) -> Figure | None:
    curves = []
    for kind in _kinds(networks):
        those = [network for network in networks if network["row"]["kind"] == kind and network["deletions"]]
        errors = _mean_of(networks, kind, lambda network: network["deletions"] and list(network["deletions"].values()))
        if errors:
            positions = [_position(name, depth) for name in those[0]["deletions"]]
            # Where a plain network has no block to delete, its curve has a gap in its place.
            curves.append(Curve(positions, errors, _series(kind), label=KINDS[kind].title, dotted=True))
            intact = statistics.fmean(network["intact_error"] for network in those)
            curves.append(Curve([1, (depth - 2) // 2], [intact, intact], _series(kind), dashed=True))
    if not curves:
        return None
    title = f"Test error with one block deleted, {depth} layers"
    svg = line_chart(curves, x_label="the block that is deleted", alternative=title, percent=True, whole=True)
    return Figure(f"deletions_{depth}", title, svg)


def _directions(networks: Sequence[Found], depth: int) -> Figure | None:
    curves = []
    for kind in _kinds(networks):
        losses = _mean_of(networks, kind, lambda network: network["direction"] and network["direction"]["losses"])
        if losses:
            positions = next(each["direction"]["positions"] for each in networks if each["direction"])
            curves.append(Curve(positions, losses, _series(kind), label=KINDS[kind].title))
    if not curves:
        return None
    title = f"Training loss along a random direction, {depth} layers"
    svg = line_chart(curves, x_label="steps along the direction", alternative=title, logarithmic=True)
    return Figure(f"direction_{depth}", title, svg)


def _mean_of(
    networks: Sequence[Found], kind: str, values: Callable[[Found], Sequence[float | None] | None]
) -> list[float]:
    """The mean over seeds, place by place; a value that is not finite leaves a gap."""
    found = [values(network) for network in networks if network["row"]["kind"] == kind]
    found = [each for each in found if each]
    return [math.nan if None in column else statistics.fmean(column) for column in zip(*found, strict=True)]


def _position(block: str, depth: int) -> int:
    """The place of "stage2_block3" among all blocks, from 1."""
    stage, number = (
        int(part.removeprefix(word)) for part, word in zip(block.split("_"), ("stage", "block"), strict=True)
    )
    return (stage - 1) * ((depth - 2) // 6) + number
