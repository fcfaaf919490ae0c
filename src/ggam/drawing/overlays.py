"""Heat maps as pictures: one laid over its picture, and several side by side in a panel."""

import io
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional as F

from ggam.drawing.layout import Canvas, wrap

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


def as_pictures(images: Tensor, mean: Sequence[float], std: Sequence[float], side: int) -> list[Image.Image]:
    """Normalised images as the RGB pictures that they were.

    Args:
        images: (B, 3, h, w).
        mean: that was subtracted from each channel.
        std: that each channel was divided by.
        side: height and width of the pictures, in pixels.
    """
    shift, scale = (images.new_tensor(values)[:, None, None] for values in (mean, std))
    images = images * scale + shift
    images = F.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=True)
    pixels = (255 * images).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(rows) for rows in pixels]


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    """A picture as the content of a file; `form` and `options` are those of `PIL.Image.Image.save`."""
    content = io.BytesIO()
    picture.save(content, form, **options)
    return content.getvalue()


def colour_bar() -> Image.Image:
    """From no heat at the left to the maximum, as the overlay looks on plain grey; 256 pixels wide."""
    ramp = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (6, 1))
    return overlay(Image.new("RGB", (256, 6), (128, 128, 128)), ramp)


def panel(picture: Image.Image, entries: Sequence[tuple[str, Tensor | np.ndarray]], caption: str) -> Figure:
    """A picture and its heat maps side by side, titled, with their maxima, a colour bar and a caption.

    Rows of at most four; each map is coloured relative to its own maximum, which stands below it.

    Args:
        picture: RGB, the crop that the maps belong to; shown as it is, first.
        entries: title and heat map (H, W) of each further tile.
        caption: wrapped to the width of the panel; line breaks are kept.

    Returns:
        A figure for `ggam.drawing.layout.render`; `TILE_INCHES` wide pictures, so at 160 dpi 320 pixels each.
    """
    tiles: list[tuple[str, Image.Image, str]] = [("Picture", picture, "")]
    for title, heat in entries:
        highest = float(torch.as_tensor(heat).max())
        note = f"max {highest:.2g}" if highest > 0 else "empty: nowhere above zero"
        tiles.append((title, overlay(picture, heat), note))
    rows = -(-len(tiles) // _COLUMNS)
    columns = -(-len(tiles) // rows)
    titles = [wrap(title, _TILE, _SIZE) for title, _, _ in tiles]
    above = _LINE * max(map(len, titles))
    step = above + _TILE + _LINE + _GAP
    width = columns * (_TILE + _GAP) + _GAP + _BAR + _BAR_LABELS
    canvas = Canvas(width, size=_SIZE, line=_LINE)
    write = partial(canvas.write, va="baseline")
    for position, ((_, tile, note), title) in enumerate(zip(tiles, titles, strict=True)):
        row, column = divmod(position, columns)
        left, top = _GAP + column * (_TILE + _GAP), _GAP + row * step + above
        write(left, top - len(title) * _LINE + _SIZE, *title, ink=_INK)
        canvas.show(tile, left, top, _TILE, _TILE)
        write(left, top + _TILE + _SIZE, note, ink=_FAINT_INK)
    lines = [line for part in caption.split("\n") for line in wrap(part, width - 2 * _GAP, _SIZE)]
    bottom = write(_GAP, _GAP + rows * step + _SIZE, *lines, ink=_INK) - _SIZE + _GAP
    if entries:
        left, top = width - _BAR - _BAR_LABELS, _GAP + above
        canvas.show(colour_bar().transpose(Image.Transpose.ROTATE_90), left, top, _BAR, _TILE)
        write(left + _BAR + 2, top + _SIZE - 2, "max", ink=_FAINT_INK)
        write(left + _BAR + 2, top + _TILE - 1, "0", ink=_FAINT_INK)
    return canvas.cut(bottom)


@cache
def _colours() -> np.ndarray:
    return 255 * matplotlib.colormaps[COLOUR_MAP](np.arange(256))[:, :3]


def _edges(picture: Image.Image) -> np.ndarray:
    """What distinguishes each pixel's brightness from its surroundings', (height, width, 1)."""
    grey = picture.convert("L")
    surroundings = grey.filter(ImageFilter.GaussianBlur(max(picture.size) / 24))
    return (np.asarray(grey, dtype=np.float32) - np.asarray(surroundings, dtype=np.float32))[..., None]
