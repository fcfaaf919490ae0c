"""Figure 3 drawn: for each picture two rows of heat maps, without guidance and with it."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from ggam.drawing.overlays import overlay, wrap
from ggam.studies.figure3 import Cell, Figure3, Subject
from ggam.studies.figure3_networks import COLUMNS
from ggam.studies.figures import LIGHT

RIGHT, WRONG = "\N{CHECK MARK}", "\N{BALLOT X}"
RIGHT_INK, WRONG_INK = "#00795a", "#b34700"
GUIDANCE = ("without guidance", "with guidance")

# In points, 1/72 inch.
_TILE = 64.0
_PICTURE = 88.0
_GUTTER = 13.0
_GAP = 4.0
_BLOCK_GAP = 7.0
_MARGIN = 5.0
_HEADER = 13.0
_FOOT = 20.0
_SIZE = 6.5
_LINE = 7.8
_BELOW = 1.5
_BAR = 5.0
_MOST_LINES = 3
_BOLD = 0.88
"""How much less bold text fits into a line."""
_SAFE = 0.95
"""The share of a width that text is fitted into: letters are rounded to whole pixels when drawn."""
_EMPTY = (236, 236, 233)
_LEFT = _MARGIN + _PICTURE + _GUTTER
_WIDTH = _LEFT + len(COLUMNS) * (_TILE + _GAP) - _GAP + _MARGIN


def draw_figure3(content: Figure3, dpi: int = 300) -> Figure:
    """Draw the grid, 5.3 inches wide, for `ggam.drawing.overlays.render`.

    Args:
        content: what `ggam.studies.figure3.gather` found.
        dpi: pixels per inch of the pictures in it.
    """
    blocks = [_Block.of(subject) for subject in content.subjects]
    height = _MARGIN + _HEADER + sum(block.height + _BLOCK_GAP for block in blocks) + _FOOT
    figure = Figure(figsize=(_WIDTH / 72, height / 72), facecolor="white")
    figure.suppressComposite = True  # in a PDF each picture stays one of its own
    axes = figure.add_axes((0, 0, 1, 1))
    for number, column in enumerate(COLUMNS):
        _write(axes, column, _column(number) + _TILE / 2, _MARGIN, ha="center", weight="bold")
    _write(axes, "picture", _MARGIN + _PICTURE / 2, _MARGIN, ha="center", weight="bold")
    top = _MARGIN + _HEADER
    for block in blocks:
        _draw_block(axes, block, top, dpi)
        top += block.height + _BLOCK_GAP
    _draw_key(axes, content, height - _FOOT)
    # After the pictures, which set limits of their own. One unit is one point, from the top left.
    axes.set(xlim=(0, _WIDTH), ylim=(height, 0), aspect="auto")
    axes.set_axis_off()
    return figure


def tile(subject: Subject, cell: Cell, side: int) -> Image.Image:
    """A cell's heat over its picture; a grey field where the network has no such map.

    Args:
        subject: the picture.
        cell: one of its cells.
        side: height and width of the result, in pixels.
    """
    if cell.heat is None:
        return Image.new("RGB", (side, side), _EMPTY)
    return overlay(scaled(subject.crop, side), cell.heat)


def colour_bar(height: int) -> Image.Image:
    """From no heat to the maximum, as the overlay looks on plain grey; 256 pixels wide."""
    ramp = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (height, 1))
    return overlay(Image.new("RGB", (256, height), (128, 128, 128)), ramp)


def scaled(picture: Image.Image, side: int) -> Image.Image:
    """A square picture, `side` pixels high and wide."""
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def verdict(cell: Cell) -> str:
    """✓ or ✗, nothing where the true class is not known."""
    return "" if cell.right is None else RIGHT if cell.right else WRONG


class _Block(NamedTuple):
    """One picture's part of the figure."""

    subject: Subject
    heading: list[str]
    answers: list[list[list[str]]]
    """The lines below each cell, by guidance and column."""

    @classmethod
    def of(cls, subject: Subject) -> "_Block":
        answers = [
            [_answer(subject.cells[pair[guided]]) for pair in COLUMNS.values()] for guided in (False, True)
        ]
        return cls(subject, _fitted(subject.label or "class unknown", _BOLD * _PICTURE), answers)

    def row_height(self, guided: int) -> float:
        """Of the tiles and what stands below them."""
        return _TILE + _LINE * max(map(len, self.answers[guided])) + _GAP

    @property
    def height(self) -> float:
        """Of both rows, in points."""
        return self.row_height(0) + self.row_height(1)


def _draw_block(axes: Axes, block: _Block, top: float, dpi: int) -> None:
    subject = block.subject
    _show(axes, scaled(subject.crop, round(_PICTURE * dpi / 72)), _MARGIN, top, _PICTURE)
    _mark(axes, subject, _MARGIN, top, _PICTURE)
    place = top + _PICTURE + _BELOW
    for line in block.heading:
        _write(axes, line, _MARGIN + _PICTURE / 2, place, ha="center", weight="bold")
        place += _LINE
    _write(axes, subject.tally, _MARGIN + _PICTURE / 2, place, ha="center", ink=LIGHT.quiet)
    side = round(_TILE * dpi / 72)
    for guided, words in enumerate(GUIDANCE):
        _write(axes, words, _LEFT - 4, top + _TILE / 2, ha="right", va="center", rotation=90, ink=LIGHT.quiet)
        for number, (pair, lines) in enumerate(zip(COLUMNS.values(), block.answers[guided], strict=True)):
            cell, left = subject.cells[pair[guided]], _column(number)
            _show(axes, tile(subject, cell, side), left, top, _TILE)
            _draw_notes(axes, subject, cell, lines, left, top)
        top += block.row_height(guided)


def _draw_notes(
    axes: Axes, subject: Subject, cell: Cell, lines: Sequence[str], left: float, top: float
) -> None:
    """The marks on a tile, and the answer below it."""
    if cell.heat is None:
        middle = (left + _TILE / 2, top + _TILE / 2)
        _write(axes, "no such map", *middle, ha="center", va="center", ink=LIGHT.quiet)
    else:
        _mark(axes, subject, left, top, _TILE)
        if not (cell.heat > 0).any():
            _write(axes, "map is empty", left + 2, top + 1, ink="white", halo="black")
    ink = LIGHT.ink if cell.right is None else RIGHT_INK if cell.right else WRONG_INK
    for number, line in enumerate(lines):
        _write(axes, line, left, top + _TILE + _BELOW + number * _LINE, ink=ink)


def _mark(axes: Axes, subject: Subject, left: float, top: float, side: float) -> None:
    """The box and the telling parts, light with a dark rim so that they show on anything."""
    rim = [withStroke(linewidth=1.0, foreground="#101418")]
    style = {"fill": False, "edgecolor": "white", "linewidth": 0.45, "path_effects": rim}
    if subject.box is not None:
        x0, y0, x1, y1 = subject.box
        corner = (left + x0 * side, top + y0 * side)
        axes.add_patch(Rectangle(corner, (x1 - x0) * side, (y1 - y0) * side, **style))
    area = Rectangle((left, top), side, side, transform=axes.transData)
    for x, y, radius in subject.rings:
        ring = Circle((left + x * side, top + y * side), radius * side, **style)
        axes.add_patch(ring)
        ring.set_clip_path(area)


def _draw_key(axes: Axes, content: Figure3, top: float) -> None:
    """The colour bar, and what the marks mean."""
    width = 2 * _TILE + _GAP
    axes.imshow(np.asarray(colour_bar(1)), extent=(_LEFT, _LEFT + width, top + _BAR, top))
    below = top + _BAR + _BELOW
    _write(axes, "no heat", _LEFT, below, ink=LIGHT.quiet)
    _write(axes, "maximum of the map", _LEFT + width, below, ha="right", ink=LIGHT.quiet)
    key = []
    if any(subject.label is not None for subject in content.subjects):
        key.append(f"{RIGHT} right   {WRONG} wrong")
    if any(subject.box is not None for subject in content.subjects):
        rings = any(subject.rings for subject in content.subjects)
        key.append("□ object   ○ telling part" if rings else "□ object")
    for number, line in enumerate(key):
        _write(axes, line, _column(2) + _GAP, top - _BELOW + number * _LINE, ink=LIGHT.quiet)


def _answer(cell: Cell) -> list[str]:
    """What the network says, in lines as wide as a tile."""
    return _fitted(f"{verdict(cell)} {cell.predicted} {cell.probability:.0%}".strip(), _TILE)


def _fitted(text: str, width: float) -> list[str]:
    """At most three lines, the last one shortened where there would be more."""
    lines = wrap(text, _SAFE * width, _SIZE)
    return lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], f"{lines[_MOST_LINES - 1]}…"]


def _column(number: int) -> float:
    return _LEFT + number * (_TILE + _GAP)


def _show(axes: Axes, picture: Image.Image, left: float, top: float, side: float) -> None:
    axes.imshow(np.asarray(picture), extent=(left, left + side, top + side, top), interpolation="antialiased")


def _write(
    axes: Axes,
    text: str,
    x: float,
    y: float,
    *,
    ink: str = LIGHT.ink,
    ha: str = "left",
    va: str = "top",
    weight: str = "normal",
    rotation: float = 0,
    halo: str | None = None,
) -> None:
    effects = [withStroke(linewidth=1.2, foreground=halo)] if halo else None
    with matplotlib.rc_context({"font.family": "DejaVu Sans"}):
        axes.text(
            x,
            y,
            text,
            size=_SIZE,
            color=ink,
            ha=ha,
            va=va,
            weight=weight,
            rotation=rotation,
            path_effects=effects,
            parse_math=False,
        )
