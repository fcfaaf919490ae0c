"""Sheets for print: pictures, text and marks at places in points, and the files made of them."""

import io
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image, ImageFont

PrintFormat = Literal["png", "pdf"]

_FONT = "DejaVu Sans"
_UNDATED = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
_STYLE: dict[Any, Any] = {
    "font.family": _FONT,
    "pdf.fonttype": 42,  # TrueType outlines: text stays text, and publishers accept it
    "svg.hashsalt": "ggam",  # the same figure, the same bytes
}
_DARK = "#101418"
_MEASURED = 100
"""The size of the letters that are measured; large, so that their widths are not rounded."""


class Canvas:
    """A white sheet, drawn from the top down and then cut.

    Places and lengths are points, 1/72 inch, from the top left corner.

    Args:
        width: of the sheet.
        size: of the letters.
        line: from one line of text to the next.
    """

    def __init__(self, width: float, *, size: float, line: float) -> None:
        self._width, self._size, self._line = width, size, line
        self._figure = Figure(facecolor="white")
        self._figure.suppressComposite = True  # in a PDF each picture stays one of its own
        self._axes = self._figure.add_axes((0, 0, 1, 1), autoscale_on=False)
        self._axes.set_axis_off()

    def cut(self, height: float) -> Figure:
        """The figure of what was drawn, for `render`."""
        height = round(height, 6)  # so that the order of additions moves nothing by a pixel
        self._axes.set(xlim=(0, self._width), ylim=(height, 0))
        self._figure.set_size_inches(self._width / 72, height / 72)
        return self._figure

    def show(self, picture: Image.Image, left: float, top: float, width: float, height: float) -> None:
        """Draw a picture, stretched to `width` and `height`."""
        extent = (left, left + width, top + height, top)
        self._axes.imshow(np.asarray(picture), extent=extent, aspect="auto")

    def write(
        self, x: float, y: float, *lines: str, ink: str, halo: str | None = None, **style: Any
    ) -> float:
        """Write lines one below the other; returns where the next one would be.

        Args:
            x: where they begin, or what `ha` says.
            y: the top of the first one, or what `va` says.
            *lines: may be empty.
            ink: their colour.
            halo: the colour of a rim around the letters.
            **style: of `matplotlib.text.Text`: `ha`, `va`, `weight`, `rotation`.
        """
        effects = [withStroke(linewidth=1.2, foreground=halo)] if halo else None
        style = {"va": "top", "family": _FONT, "size": self._size, "path_effects": effects, **style}
        for number, line in enumerate(lines):
            self._axes.text(x, y + number * self._line, line, color=ink, parse_math=False, **style)
        return y + len(lines) * self._line

    def mark(
        self,
        left: float,
        top: float,
        side: float,
        box: Sequence[float] | None,
        rings: Sequence[tuple[float, float, float]],
    ) -> None:
        """Draw a box and rings on a square picture, light with a dark rim so that they show on anything.

        Args:
            left: of the picture.
            top: of the picture.
            side: of the picture.
            box: left, top, right, bottom, in fractions of the side.
            rings: x, y, radius, in fractions of the side; cut off where the picture ends.
        """
        rim = [withStroke(linewidth=1.0, foreground=_DARK)]
        style: dict[str, Any] = {"fill": False, "edgecolor": "white", "linewidth": 0.45, "path_effects": rim}
        if box is not None:
            x0, y0, x1, y1 = box
            corner = (left + x0 * side, top + y0 * side)
            self._axes.add_patch(Rectangle(corner, (x1 - x0) * side, (y1 - y0) * side, **style))
        area = Rectangle((left, top), side, side, transform=self._axes.transData)
        for x, y, radius in rings:
            ring = Circle((left + x * side, top + y * side), radius * side, **style)
            self._axes.add_patch(ring).set_clip_path(area)


def render(figure: Figure, form: str, dpi: int) -> bytes:
    """A figure as the content of a file; equal figures give equal bytes, and text in a PDF stays text.

    Args:
        figure: that `Canvas.cut` gave, or any other.
        form: `png`, `pdf` or `svg`.
        dpi: pixels per inch, in a PDF those of the pictures in it.
    """
    content = io.BytesIO()
    FigureCanvasAgg(figure)
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A script that the font lacks shows as boxes, and need not be said for each letter.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(content, format=form, dpi=dpi, metadata=_UNDATED[form])
    return content.getvalue()


def wrap(text: str, width: float, size: float, most: int | None = None) -> list[str]:
    """Lines as a `Canvas` writes them, broken at blanks, and within words that are too long.

    Args:
        text: one paragraph.
        width: of the widest line allowed, in points.
        size: of the letters, in points.
        most: how many lines; the last one ends in … where there would be more. None: any number.
    """
    font, width = _font(), width * _MEASURED / size
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines if most is None or len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1]}…"]


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), _MEASURED)
