"""Figure 3 drawn: for each picture two rows of heat maps, without guidance and with it."""

from matplotlib.figure import Figure
from PIL import Image

from ggam.drawing.layout import Canvas, wrap
from ggam.drawing.overlays import colour_bar
from ggam.studies.figure3 import COLUMNS, GUIDANCE, PLACES, Figure3, Subject
from ggam.studies.figures import LIGHT

_INKS = {None: LIGHT.ink, True: LIGHT.levels[1], False: LIGHT.levels[0]}
"""Of an answer, by whether it is right."""
_NO_MAP = Image.new("RGB", (1, 1), (236, 236, 233))
_LINES = {words: [row for row, place in PLACES.items() if place[1] == words] for words in GUIDANCE}
"""The rows of Table 3 as lines of tiles."""
# In points, 1/72 inch.
_TILE = 64.0
_PICTURE = 88.0
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
_MIDDLE = _MARGIN + _PICTURE / 2
_LEFTS = [_MARGIN + _PICTURE + 13.0 + number * (_TILE + _GAP) for number in range(len(COLUMNS))]
_WIDTH = _LEFTS[-1] + _TILE + _MARGIN


def draw_figure3(content: Figure3, dpi: int = 300) -> Figure:
    """Draw the grid, 5.3 inches wide, for `ggam.drawing.layout.render`.

    Args:
        content: what `ggam.studies.figure3.gather` found.
        dpi: pixels per inch of the pictures in it.
    """
    canvas = Canvas(_WIDTH, size=_SIZE, line=_LINE)
    middles = (_MIDDLE, *(left + _TILE / 2 for left in _LEFTS))
    for heading, middle in zip(("picture", *COLUMNS), middles, strict=True):
        canvas.write(middle, _MARGIN, heading, ink=LIGHT.ink, ha="center", weight="bold")
    top = _MARGIN + _HEADER
    for subject in content.subjects:
        _draw_picture(canvas, subject, top, dpi)
        for words, rows in _LINES.items():
            middle = top + _TILE / 2
            canvas.write(_LEFTS[0] - 4, middle, words, ink=LIGHT.quiet, ha="right", va="center", rotation=90)
            cells = zip(rows, _LEFTS, strict=True)
            top = max(_draw_cell(canvas, subject, row, left, top, dpi) for row, left in cells) + _GAP
        top += _BLOCK_GAP
    _draw_key(canvas, content, top)
    return canvas.cut(top + _FOOT)


def _draw_picture(canvas: Canvas, subject: Subject, top: float, dpi: int) -> None:
    heading = _fitted(subject.label or "class unknown", _BOLD * _PICTURE)
    canvas.show(subject.picture(round(_PICTURE * dpi / 72)), _MARGIN, top, _PICTURE, _PICTURE)
    canvas.mark(_MARGIN, top, _PICTURE, subject.box, subject.rings)
    below = top + _PICTURE + _BELOW
    below = canvas.write(_MIDDLE, below, *heading, ink=LIGHT.ink, ha="center", weight="bold")
    canvas.write(_MIDDLE, below, subject.tally, ink=LIGHT.quiet, ha="center")


def _draw_cell(canvas: Canvas, subject: Subject, row: str, left: float, top: float, dpi: int) -> float:
    """The heat over the picture, a grey field where the network has no such map; returns where it ends."""
    cell = subject.cells[row]
    if cell.heat is None:
        canvas.show(_NO_MAP, left, top, _TILE, _TILE)
        middle = (left + _TILE / 2, top + _TILE / 2)
        canvas.write(*middle, "no such map", ink=LIGHT.quiet, ha="center", va="center")
    else:
        canvas.show(subject.picture(round(_TILE * dpi / 72), cell.heat), left, top, _TILE, _TILE)
        canvas.mark(left, top, _TILE, subject.box, subject.rings)
        if not (cell.heat > 0).any():
            canvas.write(left + 2, top + 1, "map is empty", ink="white", halo="black")
    answer = _fitted(f"{cell.sign} {cell.predicted} {cell.probability:.0%}".strip(), _TILE)
    return canvas.write(left, top + _TILE + _BELOW, *answer, ink=_INKS[cell.right]) - _BELOW


def _draw_key(canvas: Canvas, content: Figure3, top: float) -> None:
    """The colour bar, and what the marks mean."""
    left, width = _LEFTS[0], 2 * _TILE + _GAP
    canvas.show(colour_bar(), left, top, width, _BAR)
    below = top + _BAR + _BELOW
    canvas.write(left, below, "no heat", ink=LIGHT.quiet)
    canvas.write(left + width, below, "maximum of the map", ink=LIGHT.quiet, ha="right")
    subjects = content.subjects
    key = ["✓ right   ✗ wrong"] if any(subject.label is not None for subject in subjects) else []
    if any(subject.box is not None for subject in subjects):
        rings = "   ○ discriminative part" if any(subject.rings for subject in subjects) else ""
        key.append(f"□ object{rings}")
    canvas.write(_LEFTS[2] + _GAP, top - _BELOW, *key, ink=LIGHT.quiet)


def _fitted(text: str, width: float) -> list[str]:
    return wrap(text, _SAFE * width, _SIZE, _MOST_LINES)
