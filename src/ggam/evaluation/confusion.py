"""The confusion matrix as a picture: the matrix on the left, the most frequent confusions on the right."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.text import Text

from ggam.drawing.layout import render

NAMED_CLASSES = 40
"""Up to this many classes are named along the axes; with more the names would be unreadable."""
COUNTED_CLASSES = 20
"""Up to this many classes each cell shows its count."""
_DPI = 110
_NAME_LENGTH = 30
_MARK = "#d1495b"


def confusion_picture(
    matrix: np.ndarray, class_names: Sequence[str], pairs: Sequence[tuple[int, int, int]]
) -> bytes:
    """Draw a confusion matrix.

    Args:
        matrix: counts (K, K), row the label, column the predicted class.
        class_names: K names.
        pairs: the most frequent confusions (label, predicted, count), the most frequent first; they
            are numbered in the matrix and listed beside it.

    Returns:
        A PNG.
    """
    side = float(np.clip(3.5 + 0.28 * len(class_names), 5, 9.5))
    figure = Figure(figsize=(side + 5.2, side), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=[side, 5.2])
    _draw_matrix(left, matrix, class_names)
    _draw_marks(left, pairs, len(class_names))
    _draw_pairs(right, pairs, class_names)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a class may be called "$5"
    with matplotlib.rc_context({"savefig.bbox": "tight", "savefig.pad_inches": 0.2}):
        return render(figure, "png", _DPI)


def _draw_matrix(axes: Axes, matrix: np.ndarray, class_names: Sequence[str]) -> None:
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    # A square root, so that one mistake in thirty still shows.
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    count = len(class_names)
    number = "" if count <= NAMED_CLASSES else ", number of the class from 0"
    axes.set(xlabel=f"predicted{number}", ylabel=f"label{number}", title="Share of each class's pictures")
    if count <= NAMED_CLASSES:
        names = [_short(name) for name in class_names]
        axes.set_xticks(range(count), names, rotation=90, fontsize=8)
        axes.set_yticks(range(count), names, fontsize=8)
    if count <= COUNTED_CLASSES:
        for row, column in zip(*matrix.nonzero(), strict=True):
            ink = "white" if shares[row, column] > 0.35 else "#1b2a3a"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=7, color=ink)


def _draw_marks(axes: Axes, pairs: Sequence[tuple[int, int, int]], count: int) -> None:
    if count <= COUNTED_CLASSES:
        return
    for number, (label, predicted, _) in enumerate(pairs, start=1):
        axes.plot(predicted, label, "o", markersize=9, fillstyle="none", color=_MARK)
        beside = {"xytext": (6, 5), "textcoords": "offset points"}
        axes.annotate(str(number), (predicted, label), **beside, fontsize=8, color=_MARK)


def _draw_pairs(axes: Axes, pairs: Sequence[tuple[int, int, int]], class_names: Sequence[str]) -> None:
    axes.set_title("Most frequent confusions", loc="left")
    axes.set_axis_off()
    if not pairs:
        axes.text(0, 0.9, "none: every picture was recognised", transform=axes.transAxes)
        return
    largest = pairs[0][2]
    places = np.linspace(0.95, 0.04, 12)
    for number, ((label, predicted, times), y) in enumerate(zip(pairs, places, strict=False), start=1):
        names = f"{number}. {_short(class_names[label])} → {_short(class_names[predicted])}"
        axes.text(0, y, names, transform=axes.transAxes, fontsize=9, va="bottom")
        width = 0.85 * times / largest
        axes.barh(y - 0.012, width, height=0.014, color=_MARK, alpha=0.8, transform=axes.transAxes)
        axes.text(width + 0.02, y - 0.012, str(times), transform=axes.transAxes, fontsize=8, va="center")


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"
