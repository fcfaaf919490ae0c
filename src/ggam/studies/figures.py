"""The figure of a study: each row with its seeds and interval, or the curve over λ, as in Figure 4."""

import io
import math
from collections.abc import Sequence
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ggam.studies.definition import PLAIN
from ggam.studies.statistics import Summary
from ggam.studies.table import METRICS, Line, StudyTable

WIDTH = 3.5
"""Inches: one column of a two-column paper."""
DPI = 300
_LABEL = 22
"""Characters of a row's label before it breaks."""
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,  # TrueType outlines: text stays text, and publishers accept it
    "svg.hashsalt": "ggam",  # the same figure, the same bytes
}


class Palette(NamedTuple):
    """Colours told apart by the colour-blind (Okabe and Ito, 2008); lines differ in their dashes too."""

    ink: str
    quiet: str
    grid: str
    mean: str
    lines: tuple[str, ...]
    background: str


LIGHT = Palette("#1d2126", "#6b727b", "#e3e0da", "#0072b2", ("#b34700", "#00795a"), "#ffffff")
DARK = Palette("#e8e6e1", "#a0a7b0", "#31373f", "#56b4e9", ("#e69f00", "#2fc79a"), "#1c2026")
_DASHES = ((4, 2), (1.5, 1.5))


def draw(table: StudyTable, metric: str = "top1", palette: Palette = LIGHT) -> Figure:
    """Draw a measure of all rows: a curve where the study has an axis, else a line of dots for each row.

    Large dots are means over the seeds, bars their 95 % bootstrap intervals, small dots the seeds.

    Args:
        table: what was measured; rows without a run are named and left empty.
        metric: a key of `METRICS`; if no run has it, the figure says that nothing was measured.
        palette: its colours.
    """
    with matplotlib.rc_context(_STYLE):
        measured = metric in table.metrics
        height = (2.5 if table.study.axis else 0.75 + 0.27 * len(table.lines)) if measured else 0.6
        figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor=palette.background)
        axes = figure.add_subplot(facecolor=palette.background)
        if not measured:
            _draw_nothing(axes, palette)
        elif table.study.axis:
            _draw_curve(axes, table, metric, palette)
        else:
            _draw_rows(axes, table, metric, palette)
        _clean(axes, palette)
        return figure


def render(figure: Figure, form: str) -> bytes:
    """A figure as a file: `png`, `pdf` or `svg`; equal figures give equal bytes."""
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format=form, dpi=DPI, metadata=undated[form], facecolor=figure.get_facecolor())
    return buffer.getvalue()


def describe(table: StudyTable, metric: str = "top1") -> str:
    """The figure in words, for those who cannot see it."""
    shown = METRICS[metric].shown
    unit = f" {METRICS[metric].unit}".rstrip()
    parts = [
        f"{line.row.label} {shown(line.summaries[metric].mean)}{unit}"
        if metric in line.summaries
        else f"{line.row.label} not run"
        for line in table.lines
    ]
    return f"{METRICS[metric].title}, mean over the seeds: {'; '.join(parts)}."


def _draw_rows(axes: Axes, table: StudyTable, metric: str, palette: Palette) -> None:
    scale = _scale(metric)
    for place, line in enumerate(table.lines):
        summary = line.summaries.get(metric)
        if summary is None:
            words = "failed" if line.failures else "not run"
            across = axes.get_yaxis_transform()
            axes.text(0.02, place, words, transform=across, va="center", color=palette.quiet)
            continue
        plain = line.row.options.get("method") == PLAIN
        colour = palette.lines[0] if plain else palette.mean
        if plain:
            _draw_reference(axes, table, line, summary.mean * scale, palette)
        axes.scatter(*_seeds(line, metric, place + 0.26), **_seed_style(palette))
        _draw_mean(axes, summary, scale, place, colour, upright=False)
    axes.set_yticks(range(len(table.lines)), [fill(line.row.label, _LABEL) for line in table.lines])
    axes.set_ylim(len(table.lines) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=palette.grid, linewidth=0.6)
    axes.set_xlabel(_title(metric))
    axes.margins(x=0.06)


def _draw_reference(axes: Axes, table: StudyTable, line: Line, value: float, palette: Palette) -> None:
    """The plain network's mean as an upright line through the rows that are held against it."""
    rows = [
        place
        for place, other in enumerate(table.lines)
        if other is line or line.row.name in other.row.references
    ]
    axes.plot(
        [value, value],
        [min(rows) - 0.45, max(rows) + 0.45],
        color=palette.lines[0],
        linewidth=0.9,
        dashes=_DASHES[0],
        zorder=1,
    )


def _draw_curve(axes: Axes, table: StudyTable, metric: str, palette: Palette) -> None:
    scale, axis = _scale(metric), table.study.axis
    for number, name in enumerate(table.study.lines):
        _draw_level(axes, table.line(name), metric, number, palette)
    points = sorted((place, name) for name, place in axis.items())
    means = []
    for place, name in points:
        line = table.line(name)
        summary = line.summaries.get(metric)
        means.append(math.nan if summary is None else scale * summary.mean)  # a gap in the curve
        if summary is not None:
            axes.scatter(*reversed(_seeds(line, metric, place + 0.17)), **_seed_style(palette))
            _draw_mean(axes, summary, scale, place, palette.mean, upright=True)
    axes.plot([place for place, _ in points], means, color=palette.mean, linewidth=1.2, zorder=2)
    ticks = [place for place, _ in points]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlim(ticks[0] - 0.5, ticks[-1] + 0.5)
    axes.grid(axis="y", color=palette.grid, linewidth=0.6)
    axes.set_xlabel("λ, weight of the guidance")
    axes.set_ylabel(_title(metric))
    if axes.get_legend_handles_labels()[0]:
        legend = axes.figure.legend(
            loc="outside upper center", frameon=False, ncols=2, fontsize=7, handlelength=2.4
        )
        for text in legend.get_texts():
            text.set_color(palette.ink)


def _draw_level(axes: Axes, line: Line, metric: str, number: int, palette: Palette) -> None:
    """A row without a place on the axis, as a level with the band of its interval."""
    summary = line.summaries.get(metric)
    if summary is None:
        return
    colour, scale = palette.lines[number % 2], _scale(metric)
    if summary.low is not None and summary.high is not None:
        axes.axhspan(scale * summary.low, scale * summary.high, color=colour, alpha=0.12, linewidth=0)
    axes.axhline(
        scale * summary.mean, color=colour, linewidth=1, dashes=_DASHES[number % 2], label=line.row.label
    )


def _draw_mean(
    axes: Axes, summary: Summary, scale: float, place: float, colour: str, *, upright: bool
) -> None:
    def points(value: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
        places = [place] * len(value)
        return (places, value) if upright else (value, places)

    if summary.low is not None and summary.high is not None:
        axes.plot(
            *points([scale * summary.low, scale * summary.high]),
            color=colour,
            linewidth=1.6,
            solid_capstyle="butt",
            zorder=3,
        )
    axes.plot(*points([scale * summary.mean]), "o", color=colour, markersize=4, zorder=4)


def _seeds(line: Line, metric: str, place: float) -> tuple[list[float], list[float]]:
    """The single seeds and their place beside the mean; none for one seed, which is the mean."""
    values = [_scale(metric) * record.metrics[metric] for record in line.records]
    return (values, [place] * len(values)) if len(values) > 1 else ([], [])


def _seed_style(palette: Palette) -> dict[str, Any]:
    return {"s": 5, "color": palette.quiet, "alpha": 0.75, "linewidths": 0}


def _draw_nothing(axes: Axes, palette: Palette) -> None:
    where = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    axes.text(0.5, 0.5, "no run has finished", color=palette.quiet, **where)
    axes.set_axis_off()


def _clean(axes: Axes, palette: Palette) -> None:
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(palette.quiet)
    axes.tick_params(colors=palette.ink)
    axes.xaxis.label.set_color(palette.ink)
    axes.yaxis.label.set_color(palette.ink)


def _scale(metric: str) -> float:
    return 100.0 if METRICS[metric].unit else 1.0


def _title(metric: str) -> str:
    unit = METRICS[metric].unit
    title = {"top1": "top-1 accuracy"}.get(metric, METRICS[metric].title)
    return f"{title}, {unit}" if unit else title
