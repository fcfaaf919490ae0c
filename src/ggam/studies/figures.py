"""The figure of a study: each row with its seeds and interval, or the curve over λ, as in Figure 4."""

import math
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ggam.drawing import layout
from ggam.evaluation.metrics import METRICS
from ggam.studies.table import RowResult, StudyTable, is_plain

WIDTH = 3.5
"""Inches: one column of a two-column paper."""
DPI = 300
_LABEL = 22
"""Characters of a row's label before it breaks."""
_TITLE = "top-1 accuracy, %"


class Palette(NamedTuple):
    """Colours told apart by the colour-blind (Okabe and Ito, 2008); levels differ in their dashes too."""

    ink: str
    quiet: str
    grid: str
    mean: str
    levels: tuple[str, ...]
    background: str


LIGHT = Palette("#1d2126", "#6b727b", "#e3e0da", "#0072b2", ("#b34700", "#00795a"), "#ffffff")
DARK = Palette("#e8e6e1", "#a0a7b0", "#31373f", "#56b4e9", ("#e69f00", "#2fc79a"), "#1c2026")
_DASHES = ((4, 2), (1.5, 1.5))


def draw(table: StudyTable, palette: Palette = LIGHT) -> Figure:
    """Draw the accuracy of all rows: a curve where the study has an axis, else a line of dots for each row.

    Large dots are means over the seeds, bars their 95 % bootstrap intervals, small dots the seeds.

    Args:
        table: what was measured; rows without a run are named and left empty, and a table without any run
            says that nothing was measured.
        palette: its colours.
    """
    with matplotlib.rc_context(_style(palette)):
        height = (2.5 if table.study.axis else 0.75 + 0.27 * len(table.rows)) if table.records else 0.6
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        if not table.records:
            axes.text(0.5, 0.5, "no run has finished", color=palette.quiet, ha="center", va="center")
            axes.set_axis_off()
        elif table.study.axis:
            _draw_curve(axes, table, palette)
        else:
            _draw_rows(axes, table, palette)
        return figure


def render(figure: Figure, form: str) -> bytes:
    """A figure as a file: `png`, `pdf` or `svg`; equal figures give equal bytes."""
    with matplotlib.rc_context(_style(LIGHT)):
        return layout.render(figure, form, DPI)


def describe(table: StudyTable) -> str:
    """The figure in words, for those who cannot see it."""
    parts = [
        f"{result.row.label} {METRICS['top1'].shown(result.metrics['top1'].mean)} %"
        if result.records
        else f"{result.row.label} not run"
        for result in table.rows
    ]
    return f"top-1, mean over the seeds: {'; '.join(parts)}."


def _draw_rows(axes: Axes, table: StudyTable, palette: Palette) -> None:
    for place, result in enumerate(table.rows):
        if not result.records:
            words, across = "failed" if result.failures else "not run", axes.get_yaxis_transform()
            axes.text(0.02, place, words, transform=across, va="center", color=palette.quiet)
            continue
        colour = palette.mean
        if is_plain(result.row):
            # upright through the rows that are held against it
            held = [n for n, other in enumerate(table.rows) if result.row.name in other.row.references]
            mean, ends = (
                100 * result.metrics["top1"].mean,
                [min([place, *held]) - 0.45, max([place, *held]) + 0.45],
            )
            colour = palette.levels[0]
            axes.plot([mean, mean], ends, color=colour, linewidth=0.9, dashes=_DASHES[0], zorder=1)
        _draw_dots(axes, result, place, 0.26, colour, palette, upright=False)
    axes.set_yticks(range(len(table.rows)), [fill(result.row.label, _LABEL) for result in table.rows])
    axes.set_ylim(len(table.rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_xlabel(_TITLE)
    axes.margins(x=0.06)


def _draw_curve(axes: Axes, table: StudyTable, palette: Palette) -> None:
    for name, colour, dashes in zip(table.study.levels, palette.levels, _DASHES, strict=False):
        _draw_level(axes, table.result(name), colour, dashes)
    places = {place: table.result(name) for name, place in table.study.axis.items()}
    ticks = sorted(places)
    means = [100 * places[tick].metrics["top1"].mean if places[tick].records else math.nan for tick in ticks]
    for place, result in places.items():
        if result.records:
            _draw_dots(axes, result, place, 0.17, palette.mean, palette, upright=True)
    axes.plot(ticks, means, color=palette.mean, linewidth=1.2, zorder=2)  # with gaps where nothing ran
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlim(ticks[0] - 0.5, ticks[-1] + 0.5)
    axes.grid(axis="y")
    axes.set_xlabel("λ, weight of the guidance")
    axes.set_ylabel(_TITLE)
    if axes.get_legend_handles_labels()[0]:
        axes.figure.legend(loc="outside upper center", ncols=2)


def _draw_level(axes: Axes, result: RowResult, colour: str, dashes: tuple[float, float]) -> None:
    """A row without a place on the axis, as a level with the band of its interval."""
    if not result.records:
        return
    summary = result.metrics["top1"]
    if summary.low is not None and summary.high is not None:
        axes.axhspan(100 * summary.low, 100 * summary.high, color=colour, alpha=0.12, linewidth=0)
    axes.axhline(100 * summary.mean, color=colour, linewidth=1, dashes=dashes, label=result.row.label)


def _draw_dots(
    axes: Axes, result: RowResult, place: float, aside: float, colour: str, palette: Palette, *, upright: bool
) -> None:
    """The mean with its interval, and beside them the single seeds; one seed is its mean."""

    def points(place: float, *values: float) -> list[list[float]]:
        along = [100 * value for value in values]
        return [[place] * len(along), along] if upright else [along, [place] * len(along)]

    summary = result.metrics["top1"]
    if summary.low is not None and summary.high is not None:
        seeds = points(place + aside, *(record.metrics["top1"] for record in result.records))
        axes.scatter(*seeds, s=5, color=palette.quiet, alpha=0.75, linewidths=0)
        bar = points(place, summary.low, summary.high)
        axes.plot(*bar, color=colour, linewidth=1.6, solid_capstyle="butt", zorder=3)
    axes.plot(*points(place, summary.mean), "o", color=colour, markersize=4, zorder=4)


def _style(palette: Palette) -> dict[Any, Any]:
    return {
        "font.family": "DejaVu Sans",
        "font.size": 7.5,
        "figure.facecolor": palette.background,
        "axes.facecolor": palette.background,
        "axes.edgecolor": palette.quiet,
        "axes.labelcolor": palette.ink,
        "axes.linewidth": 0.6,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": palette.grid,
        "grid.linewidth": 0.6,
        "xtick.color": palette.ink,
        "ytick.color": palette.ink,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 7,
        "legend.handlelength": 2.4,
        "legend.labelcolor": palette.ink,
    }
