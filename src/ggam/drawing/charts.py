"""Small SVG pictures for the HTML pages; their colours are the page's, so they follow light and dark."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

Series = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 10, 34
_TICKS = 5


def line_chart(
    series: Mapping[str, Series], *, label: str, percent: bool = False, marked: float | None = None
) -> Markup:
    """A line chart over epochs.

    Args:
        series: points (x, y) of each line by its name, in the order of their colours; lines without
            points are left out of the picture and of its legend.
        label: what the chart shows, for those who cannot see it.
        percent: write 0.5 as 50 %.
        marked: an x at which a dashed upright is drawn.

    Returns:
        A `<figure>`, empty if there are no points at all.
    """
    series = {name: points for name, points in series.items() if points}
    if not series:
        return Markup("")
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    low, high, ticks = _scale(min(ys), max(ys))
    first, last = min(xs), max(max(xs), min(xs) + 1)

    def at_x(x: float) -> float:
        return _LEFT + (x - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def at_y(y: float) -> float:
        return _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in ticks:
        text = f"{100 * tick:g} %" if percent else f"{tick:g}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" {_level(at_y(tick))}/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at_y(tick) + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in _epochs(first, last):
        parts.append(f'<text x="{at_x(tick):.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{tick:g}</text>')
    if marked is not None and first <= marked <= last:
        x = f"{at_x(marked):.1f}"
        parts.append(f'<line class="marked" x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    for number, points in enumerate(series.values()):
        places = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line s{number}" points="{places}"/>')
        if len(points) == 1:
            x, y = points[0]
            parts.append(f'<circle class="dot s{number}" cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3"/>')
    return _figure(label, series, parts, percent)


def confusion_chart(matrix: np.ndarray, class_names: Sequence[str]) -> Markup:
    """A confusion matrix whose cells name themselves under the pointer.

    Args:
        matrix: counts (K, K), row the label, column the predicted class.
        class_names: K names.

    Returns:
        An `<svg>`, one unit for each cell; right answers and mistakes have colours of their own, and
        the more of a row's pictures a cell holds, the stronger it is.
    """
    count = len(class_names)
    shares = np.sqrt(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))
    cells = []
    for row, column in zip(*(index.tolist() for index in matrix.nonzero()), strict=True):
        kind = "right" if row == column else "wrong"
        strength = max(0.12, float(shares[row, column]))
        title = Markup("{} → {}: {}").format(class_names[row], class_names[column], matrix[row, column])
        cells.append(
            f'<rect class="{kind}" x="{column}" y="{row}" width="1" height="1" '
            f'fill-opacity="{strength:.2f}"><title>{title}</title></rect>'
        )
    return Markup(
        f'<svg class="matrix" viewBox="0 0 {count} {count}" role="img" aria-label="Confusion matrix: '
        f'rows are labels, columns are predictions">{"".join(cells)}</svg>'
    )


def _figure(label: str, series: Mapping[str, Series], parts: Sequence[str], percent: bool) -> Markup:
    legend = Markup("").join(
        Markup('<li class="s{}">{} <b>{}</b></li>').format(number, name, _value(points[-1][1], percent))
        for number, (name, points) in enumerate(series.items())
    )
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, label)
    svg = head + Markup("".join(parts)) + Markup("</svg>")
    caption = Markup("<figcaption>{}<ul class='legend'>{}</ul></figcaption>").format(label, legend)
    return Markup('<figure class="chart">') + caption + svg + Markup("</figure>")


def _value(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} %" if percent else f"{value:.3g}"


def _level(y: float) -> str:
    return f'y1="{y:.1f}" y2="{y:.1f}"'


def _scale(low: float, high: float) -> tuple[float, float, list[float]]:
    """An axis from a round number to a round number, and its ticks."""
    span = high - low or abs(high) or 1.0
    rough = span / (_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    bottom, top = math.floor(low / step), math.ceil(high / step)
    top = max(top, bottom + 1)
    ticks = [round(number * step, 12) for number in range(bottom, top + 1)]
    return ticks[0], ticks[-1], ticks


def _epochs(first: float, last: float) -> list[float]:
    step = max(1, math.ceil((last - first) / 6))
    return [first + step * number for number in range(int((last - first) / step) + 1)]
