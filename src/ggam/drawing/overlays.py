"""Heat maps as pictures: one laid over its picture, and several side by side in a panel."""

import io
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageFilter, ImageFont
from torch import Tensor

PanelFormat = Literal["png", "pdf"]

COLOUR_MAP = "inferno"
"""Perceptually uniform: equal steps of heat look like equal steps."""
TILE_INCHES = 2.0
"""Height and width of a picture in a panel."""

_GREY = 0.75
_DIM = 0.72
_OPACITY_POWER = 0.8
_LOWEST_COLOUR = 0.15
_DETAIL = 0.8
_COLUMNS = 4
_INK = "#1b1f24"
_FAINT_INK = "#57606a"
# In points, 1/72 inch.
_TILE = 72 * TILE_INCHES
_GAP = 9.0
_SIZE = 7.5
_LINE = 10.0
_BAR = 6.0
_BAR_LABELS = 23.0


def overlay(picture: Image.Image, heat: Tensor | np.ndarray, alpha: float = 0.8) -> Image.Image:
    """A heat map over its picture.

    The picture is greyed and dimmed so that the heat's colours are not mistaken for its own; the
    more heat, the more opaque, but the picture's edges stay visible through it. Heat is relative to
    the map's maximum, negative values count as zero.

    Args:
        picture: RGB, the crop that the map belongs to.
        heat: (H, W), any scale; enlarged bicubically.
        alpha: opacity at the maximum, from 0 to 1.

    Returns:
        RGB, of the picture's size; the plain picture for a map that is nowhere above zero.
    """
    values = np.asarray(heat.detach().float().cpu() if isinstance(heat, Tensor) else heat, dtype=np.float32)
    values = np.nan_to_num(values, posinf=0).clip(min=0)
    if not values.any():
        return picture.copy()
    small = Image.fromarray(values / values.max())
    share = np.asarray(small.resize(picture.size, Image.Resampling.BICUBIC)).clip(0, 1)
    # Starting above black, so that faint heat reads as a tint and not as a shadow.
    shade = _LOWEST_COLOUR + (1 - _LOWEST_COLOUR) * share
    colours = _colours()[(255 * shade).round().astype(int)]
    pixels = np.asarray(picture, dtype=np.float32)
    base = _DIM * ((1 - _GREY) * pixels + _GREY * pixels.mean(axis=2, keepdims=True))
    opacity = alpha * share[..., None] ** _OPACITY_POWER
    blended = base * (1 - opacity) + (colours + _DETAIL * _edges(picture)) * opacity
    return Image.fromarray(blended.round().clip(0, 255).astype(np.uint8))


def panel(picture: Image.Image, entries: Sequence[tuple[str, Tensor | np.ndarray]], caption: str) -> Figure:
    """A picture and its heat maps side by side, titled, with their maxima, a colour bar and a caption.

    Rows of at most four; each map is coloured relative to its own maximum, which stands below it.

    Args:
        picture: RGB, the crop that the maps belong to; shown as it is, first.
        entries: title and heat map (H, W) of each further tile.
        caption: wrapped to the width of the panel; line breaks are kept.

    Returns:
        A figure for `render`; `TILE_INCHES` wide pictures, so at 160 dpi 320 pixels each.
    """
    tiles: list[tuple[str, Image.Image, str]] = [("Picture", picture, "")]
    for title, heat in entries:
        highest = float(torch.as_tensor(heat).max())
        note = f"max {highest:.2g}" if highest > 0 else "empty: nowhere above zero"
        tiles.append((title, overlay(picture, heat), note))
    rows = -(-len(tiles) // _COLUMNS)
    columns = -(-len(tiles) // rows)
    titles = [wrap(title, _TILE) for title, _, _ in tiles]
    above = _LINE * max(map(len, titles))
    step = above + _TILE + _LINE + _GAP
    width = columns * (_TILE + _GAP) + _GAP + _BAR + _BAR_LABELS
    lines = [line for part in caption.split("\n") for line in wrap(part, width - 2 * _GAP)]
    height = _GAP + rows * step + len(lines) * _LINE + _GAP
    figure = Figure(figsize=(width / 72, height / 72), facecolor="white")
    for position, ((_, tile, note), title) in enumerate(zip(tiles, titles, strict=True)):
        row, column = divmod(position, columns)
        left, top = _GAP + column * (_TILE + _GAP), _GAP + row * step
        _write(figure, title, left, top + above - len(title) * _LINE)
        _axes(figure, left, top + above, _TILE, _TILE).imshow(tile, aspect="auto")
        _write(figure, [note], left, top + above + _TILE, _FAINT_INK)
    _write(figure, lines, _GAP, height - _GAP - len(lines) * _LINE)
    if len(tiles) > 1:
        _colour_bar(figure, width - _BAR - _BAR_LABELS, _GAP + above)
    return figure


def render(figure: Figure, file_format: PanelFormat, dpi: int) -> bytes:
    """A panel as the content of a PNG or PDF file; text in a PDF stays text.

    Args:
        figure: of `panel`.
        file_format: `png` or `pdf`.
        dpi: pixels per inch, in a PDF those of the pictures in it.
    """
    content = io.BytesIO()
    metadata = {"CreationDate": None} if file_format == "pdf" else {"Software": None}
    FigureCanvasAgg(figure)
    with matplotlib.rc_context({"pdf.fonttype": 42, "font.family": "DejaVu Sans"}), warnings.catch_warnings():
        # A script that the font lacks shows as boxes, and need not be said for each letter.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(content, format=file_format, dpi=dpi, metadata=metadata)
    return content.getvalue()


def wrap(text: str, width: float, size: float = _SIZE) -> list[str]:
    """Lines of DejaVu Sans, broken at blanks, and within words that are too long.

    Args:
        text: one paragraph.
        width: of the widest line allowed, in points.
        size: of the letters, in points.
    """
    font, width = _font(), 10 * width * _SIZE / size
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
    return lines


@cache
def _colours() -> np.ndarray:
    return 255 * matplotlib.colormaps[COLOUR_MAP](np.arange(256))[:, :3]


def _edges(picture: Image.Image) -> np.ndarray:
    """What distinguishes each pixel's brightness from its surroundings', (height, width, 1)."""
    grey = picture.convert("L")
    surroundings = grey.filter(ImageFilter.GaussianBlur(max(picture.size) / 24))
    return (np.asarray(grey, dtype=np.float32) - np.asarray(surroundings, dtype=np.float32))[..., None]


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes without ticks and frame at a place in points from the top left corner."""
    full_width, full_height = 72 * figure.get_size_inches()
    axes = figure.add_axes(
        (left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height)
    )
    axes.set_axis_off()
    return axes


def _colour_bar(figure: Figure, left: float, top: float) -> None:
    """From no heat to the maximum, as the overlay looks on plain grey."""
    ramp = np.linspace(1, 0, 256, dtype=np.float32)[:, None]
    grey = Image.new("RGB", (1, 256), (128, 128, 128))
    _axes(figure, left, top, _BAR, _TILE).imshow(overlay(grey, ramp), aspect="auto")
    _write(figure, ["max"], left + _BAR + 2, top - 2, _FAINT_INK)
    _write(figure, ["0"], left + _BAR + 2, top + _TILE - _SIZE - 1, _FAINT_INK)


def _write(figure: Figure, lines: Sequence[str], left: float, top: float, ink: str = _INK) -> None:
    width, height = 72 * figure.get_size_inches()
    for number, text in enumerate(lines):
        base = top + number * _LINE + _SIZE
        figure.text(left / width, 1 - base / height, text, size=_SIZE, color=ink, parse_math=False)


@cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, in which matplotlib writes; at ten times the size, to measure."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 10 * _SIZE)
