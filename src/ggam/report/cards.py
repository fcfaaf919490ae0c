"""Cards: one test picture and what models saw in it, ready for a page."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw

from ggam.data.records import FineGrainedDataset
from ggam.drawing.overlays import overlay
from ggam.drawing.pages import data_uri
from ggam.explanations.explanation import explain_maps
from ggam.methods.base import FineGrainedModel
from ggam.report.panels import crop_of, default_maps

SIDE = 208
"""Height and width of a picture on a page, in pixels."""
_BATCH = 32
_FINE = 4
"""Marks are drawn this many times larger and scaled down, so that their edges are smooth."""


@dataclass(frozen=True)
class Tile:
    """One picture of a card."""

    source: str
    alt: str
    title: str
    says: str = ""
    """What the model answered, where it is worth saying."""
    verdict: str = ""
    """`right` or `wrong`."""
    size: int = SIDE


@dataclass(frozen=True)
class Card:
    """One test picture and its heat maps."""

    heading: str
    note: str
    verdict: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Marks:
    """What is drawn onto the pictures of a card, in fractions of the crop."""

    rings: tuple[tuple[float, float, float], ...] = ()
    """(x, y, radius) of each."""
    cross: tuple[float, float] | None = None


def maps_of(
    model: FineGrainedModel, dataset: FineGrainedDataset, indices: Sequence[int]
) -> dict[int, dict[str, np.ndarray]]:
    """The heat maps (H, W) of some samples by index, those of `ggam.report.panels.default_maps`."""
    found: dict[int, dict[str, np.ndarray]] = {}
    for start in range(0, len(indices), _BATCH):
        batch = indices[start : start + _BATCH]
        images = torch.stack([dataset[index][0] for index in batch])
        _, stacks = explain_maps(model, images, kinds=default_maps(model))
        for row, index in enumerate(batch):
            found[index] = {kind: stack[row].float().cpu().numpy() for kind, stack in stacks.items()}
    return found


def picture_of(dataset: FineGrainedDataset, index: int) -> Image.Image:
    """The crop of a sample that the model saw, at the size of a tile."""
    assert dataset.transform is not None
    return crop_of(dataset.samples[index], dataset.transform, SIDE)


def heat_tile(
    picture: Image.Image, heat: np.ndarray, title: str, alt: str, marks: Marks | None = None
) -> Tile:
    """A heat map over its picture; an empty map is said to be empty."""
    empty = not (heat > 0).any()
    return Tile(
        data_uri(marked(overlay(picture, heat), marks or Marks())),
        f"{alt} (the map is empty)" if empty else alt,
        f"{title} (empty)" if empty else title,
    )


def marked(image: Image.Image, marks: Marks) -> Image.Image:
    """A copy with rings and a cross, light with a dark rim so that they show on anything."""
    layer = Image.new("RGBA", (image.width * _FINE, image.height * _FINE))
    draw = ImageDraw.Draw(layer)
    side = image.width * _FINE
    for colour, width in (("#101418", 5 * _FINE), ("#ffffff", 2 * _FINE)):
        rim = width // 2
        for x, y, radius in marks.rings:
            reach = radius * side + rim
            box = (x * side - reach, y * side - reach, x * side + reach, y * side + reach)
            draw.ellipse(box, outline=colour, width=width)
        if marks.cross is not None:
            x, y = marks.cross[0] * side, marks.cross[1] * side
            arm = 6 * _FINE + rim
            draw.line((x - arm, y, x + arm, y), fill=colour, width=width)
            draw.line((x, y - arm, x, y + arm), fill=colour, width=width)
    small = layer.resize(image.size, Image.Resampling.LANCZOS)
    return Image.alpha_composite(image.convert("RGBA"), small).convert("RGB")
