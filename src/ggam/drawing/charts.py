"""Small SVG pictures for the HTML pages; their colours are the page's, so they follow light and dark."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from ggam.drawing.pages import render_page

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

    return Markup(
        render_page(
            "line_chart.html",
            label=label,
            series=series,
            percent=percent,
            area=(_WIDTH, _HEIGHT, _LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM),
            at_x=at_x,
            at_y=at_y,
            ticks=ticks,
            epochs=_epochs(first, last),
            marked=marked if marked is not None and first <= marked <= last else None,
        )
    )


def confusion_chart(matrix: np.ndarray, class_names: Sequence[str]) -> Markup:
    """A confusion matrix whose cells name themselves under the pointer.

    Args:
        matrix: counts (K, K), row the label, column the predicted class.
        class_names: K names.

    Returns:
        An `<svg>`, one unit for each cell; right answers and mistakes have colours of their own, and
        the more of a row's pictures a cell holds, the stronger it is.
    """
    shares = np.sqrt(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))
    places = [index.tolist() for index in matrix.nonzero()]
    cells = [
        (row, column, matrix[row, column], shares[row, column]) for row, column in zip(*places, strict=True)
    ]
    return Markup(render_page("confusion_chart.html", cells=cells, names=class_names))


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
