"""Heat maps as pictures: one laid over its picture, and several side by side in a panel."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

COLOUR_MAP = "inferno"
"""Perceptually uniform: equal steps of heat look like equal steps."""
_GREY = 0.8
_DIM = 0.65
_OPACITY_POWER = 0.6
_LOWEST_COLOUR = 0.15
_GAP = 16
_COLUMNS = 4
_INK = "#1b1f24"


def overlay(picture: Image.Image, heat: Tensor | np.ndarray, alpha: float = 0.8) -> Image.Image:
    """A heat map over its picture.

    The picture is greyed and dimmed so that the heat's colours are not mistaken for its own; the
    more heat, the more opaque. Heat is relative to the map's maximum, negative values count as zero.

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
    return Image.fromarray((base * (1 - opacity) + colours * opacity).round().astype(np.uint8))


def panel(
    picture: Image.Image, entries: Sequence[tuple[str, Tensor | np.ndarray]], caption: str
) -> Image.Image:
    """A picture and its heat maps side by side, titled, with a caption below; rows of four.

    Args:
        picture: RGB, the crop that the maps belong to; shown as it is, first.
        entries: title and heat map (H, W) of each further tile.
        caption: wrapped to the width of the panel; line breaks are kept.
    """
    tiles = [("Picture", picture)]
    for title, heat in entries:
        empty = not bool((torch.as_tensor(heat) > 0).any())
        tiles.append((f"{title} (empty)" if empty else title, overlay(picture, heat)))
    width, height = picture.size
    columns = min(_COLUMNS, len(tiles))
    size = max(11, round(width / 20))
    titles = [_wrap(title, size, width) for title, _ in tiles]
    title_height = _line(size) * max(map(len, titles))
    step = title_height + height + _GAP
    full = columns * (width + _GAP) + _GAP
    lines = [line for part in caption.split("\n") for line in _wrap(part, size, full - 2 * _GAP)]
    rows = -(-len(tiles) // columns)
    canvas = Image.new("RGB", (full, _GAP + rows * step + len(lines) * _line(size) + _GAP), "white")
    for position, ((_, tile), title) in enumerate(zip(tiles, titles, strict=True)):
        row, column = divmod(position, columns)
        left, top = _GAP + column * (width + _GAP), _GAP + row * step
        lift = title_height - len(title) * _line(size)
        _write(canvas, title, (left, top + lift), size)
        canvas.paste(tile, (left, top + title_height))
    _write(canvas, lines, (_GAP, _GAP + rows * step), size)
    return canvas


@cache
def _colours() -> np.ndarray:
    return 255 * matplotlib.colormaps[COLOUR_MAP](np.arange(256))[:, :3]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: unlike Pillow's own font it has Greek and Cyrillic."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def _line(size: int) -> int:
    return round(size * 1.4)


def _wrap(text: str, size: int, width: int) -> list[str]:
    """Lines no wider than `width` pixels, broken at blanks, and within words that are too long."""
    font = _font(size)
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


def _write(canvas: Image.Image, lines: Sequence[str], corner: tuple[int, int], size: int) -> None:
    draw = ImageDraw.Draw(canvas)
    for number, text in enumerate(lines):
        draw.text((corner[0], corner[1] + number * _line(size)), text, fill=_INK, font=_font(size))
