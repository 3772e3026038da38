"""Curves and bars as SVG, for pages and as files (matplotlib, imported when the first is drawn).

A figure is `WIDTH` units wide, about as many as a phone has pixels, so that its letters stay legible there. Colours are
the page's CSS variables: one figure is right in light and in dark.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from keras_resnet.pages import SERIES, light_colors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from keras_resnet.evaluation import CalibrationBin

WIDTH, HEIGHT = 380, 250
# Colours that stand for the page's variables while matplotlib draws.
_INK, _FAINT, _LINE, _PAPER = "#010101", "#010102", "#010103", "#010104"
_SERIES = [f"#0101{16 + number:02x}" for number in range(SERIES)]
_VARIABLES = {
    _INK: "--ink",
    _FAINT: "--faint",
    _LINE: "--line",
    _PAPER: "--paper",
    **{color: f"--series-{number}" for number, color in enumerate(_SERIES)},
}
_STYLE = {
    "svg.fonttype": "none",  # letters stay text
    "svg.hashsalt": "keras-resnet",  # names inside the SVG are the same in every drawing
    "font.size": 12,
    "font.family": "DejaVu Sans",  # comes with matplotlib; the page's own font is written into the SVG
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _FAINT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _FAINT,
    "ytick.labelcolor": _FAINT,
    "xtick.major.pad": 7,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        x: Where its points lie.
        y: How high they lie; NaN leaves a gap.
        series: Which of the page's colours it has.
        dashed: Whether it is dashed.
        marked: The point with a dot on it; None for none.
        label: What the legend calls it; without one there is no legend.
        dotted: Whether each point has a dot.
    """

    x: Sequence[float]
    y: Sequence[float]
    series: int = 0
    dashed: bool = False
    marked: int | None = None
    label: str = ""
    dotted: bool = False


def line_chart(
    curves: Sequence[Curve],
    *,
    x_label: str,
    alternative: str,
    percent: bool = False,
    whole: bool = False,
    logarithmic: bool = False,
) -> Markup:
    """Draws curves in one pair of axes.

    Args:
        curves: The lines.
        x_label: What the horizontal axis shows, with its unit.
        alternative: What the figure shows, for who cannot see it.
        percent: Whether heights are parts of 1, written as per cent.
        whole: Whether the horizontal axis counts (epochs).
        logarithmic: Whether heights are drawn by their logarithm.

    Returns:
        The SVG.
    """
    import matplotlib
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    with matplotlib.rc_context(_STYLE):
        figure = _figure(HEIGHT)
        axes = figure.add_subplot()
        for curve in curves:
            axes.plot(
                curve.x,
                curve.y,
                color=_SERIES[curve.series % SERIES],
                linestyle=(0, (3, 2)) if curve.dashed else "-",
                marker="o" if curve.dotted or len(curve.x) == 1 else None,  # a single point has no line
                markersize=4,
                label=curve.label or None,
            )
            if curve.marked is not None:
                axes.plot(
                    curve.x[curve.marked],
                    curve.y[curve.marked],
                    "o",
                    color=_SERIES[curve.series % SERIES],
                    markeredgecolor=_PAPER,
                    markeredgewidth=1.5,
                    markersize=8,
                )
        axes.grid(axis="y")
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole, min_n_ticks=1))
        if logarithmic:
            axes.set_yscale("log")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(x_label)
        labelled = sum(bool(curve.label) for curve in curves)
        if labelled:
            # Above the axes, where it covers no line.
            figure.legend(
                loc="outside upper center", ncols=min(labelled, 2), frameon=False, fontsize=11, labelcolor=_FAINT
            )
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        return _svg(figure, alternative)


def reliability_diagram(bins: "Sequence[CalibrationBin]", *, alternative: str) -> Markup:
    """Draws accuracy over confidence, and beneath it how many examples each bin has.

    Args:
        bins: From `keras_resnet.evaluation.calibration_bins`.
        alternative: What the figure shows, for who cannot see it.

    Returns:
        The SVG.

    Reference:
        Guo et al. 2017, arXiv:1706.04599, figure 1.
    """
    import matplotlib
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    with matplotlib.rc_context(_STYLE):
        figure = _figure(330)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        filled = [one for one in bins if one.count]
        middles = [(one.lower + one.upper) / 2 for one in filled]
        width = 0.9 * (bins[0].upper - bins[0].lower)
        above.bar(middles, [one.accuracy for one in filled], width, color=_SERIES[0])
        above.plot([0, 1], [0, 1], color=_INK, linestyle=(0, (3, 2)), linewidth=1.2)
        below.bar(middles, [one.count for one in filled], width, color=_FAINT)
        for axes in (above, below):
            axes.grid(axis="y")
            axes.tick_params(length=0)
            axes.spines["left"].set_visible(False)
        above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
        above.yaxis.set_major_formatter(PercentFormatter(1))
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        below.xaxis.set_major_formatter(PercentFormatter(1))
        below.set(xlabel="confidence", ylabel="images")
        figure.align_ylabels()
        return _svg(figure, alternative)


def standalone(svg: str) -> str:
    """Returns a figure of a page as an SVG file of its own, in the page's light colours on white."""
    colors = light_colors()
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{size[1]}" height="{size[2]}" stroke-linejoin="round"'
    )
    svg = re.sub(r"var\((--[\w-]+)\)", lambda match: colors[match[1]], str(svg))
    return head + svg.removeprefix("<svg").replace(
        ">", f'><rect width="100%" height="100%" fill="{colors["--paper"]}"/>', 1
    )


def _figure(height: int) -> "Figure":
    from matplotlib.figure import Figure  # without pyplot: no figure is kept, no window is opened

    return Figure((WIDTH / 72, height / 72), layout="constrained")


def _svg(figure: "Figure", alternative: str) -> Markup:
    """The figure as an element of a page: no prolog, no size of its own, the page's colours and font."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", text, flags=re.DOTALL)
    # The page has the rule for line ends, and its own font; names that nothing refers to would come twice in a page.
    text = re.sub(r"<style.*?</style>\s*", "", text, flags=re.DOTALL).replace("'DejaVu Sans'", "system-ui, sans-serif")
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", text)
    text = re.sub(r"#0101[0-9a-f]{2}", lambda match: f"var({_VARIABLES[match[0]]})", text)
    return Markup('<svg role="img" aria-label="{}"').format(alternative) + Markup(text.removeprefix("<svg"))
