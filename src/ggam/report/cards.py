"""Cards: one test picture and what a model saw in it, ready for a page; and which pictures are worth one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ggam.data.records import FineGrainedDataset
from ggam.drawing.overlays import overlay
from ggam.drawing.pages import data_uri
from ggam.evaluation.accuracy import EvalReport
from ggam.evaluation.evaluate import relative_path
from ggam.explanations.explanation import explain_maps
from ggam.methods.base import FineGrainedModel
from ggam.report.panels import crop_of, default_maps

SIDE = 208
"""Height and width of a picture on a page, in pixels."""
_FINE = 4
"""Marks are drawn this many times larger and scaled down, so that their edges are smooth."""


class ReportError(ValueError):
    """An evaluation of other pictures than those that are to be shown."""


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
    tiles: Sequence[Tile]


def require_same(what: object, report: EvalReport, dataset: FineGrainedDataset) -> None:
    """Refuse pictures that are not those of an evaluation, in their order.

    Args:
        what: was evaluated, for the message.
        report: its evaluation.
        dataset: the pictures that are to be shown.

    Raises:
        ReportError: if they differ.
    """
    names = [relative_path(sample.path, dataset.root) for sample in dataset.samples]
    if names != [prediction.path for prediction in report.predictions]:
        raise ReportError(
            f"{what}: was evaluated on {len(report.predictions)} pictures that are not the {len(names)} of "
            f"{dataset.root}; give the data set it was evaluated on, or evaluate it again"
        )


def by_answer(report: EvalReport) -> tuple[list[int], list[int]]:
    """The indices of the mistaken pictures, the surest mistake first, and of the others, in their order."""
    wrong = [index for index, p in enumerate(report.predictions) if p.rank > 1]
    right = [index for index, p in enumerate(report.predictions) if p.rank == 1]
    return sorted(wrong, key=lambda index: -report.predictions[index].probability), right


def picture_of(dataset: FineGrainedDataset, index: int, side: int = SIDE) -> Image.Image:
    """The crop of a sample that the model saw, `side` pixels along each side."""
    assert dataset.transform is not None
    return crop_of(dataset.samples[index], dataset.transform, side)


def maps_of(model: FineGrainedModel, dataset: FineGrainedDataset, index: int) -> dict[str, np.ndarray]:
    """The heat maps (H, W) of a sample by kind, those of `ggam.report.panels.default_maps`."""
    _, maps = explain_maps(model, dataset[index][0][None], kinds=default_maps(model))
    return {kind: stack[0].float().cpu().numpy() for kind, stack in maps.items()}


def heat_tile(picture: Image.Image, heat: np.ndarray, title: str, alt: str, **marks: Any) -> Tile:
    """A heat map (H, W) over its picture, and the marks of `marked`; an empty map is said to be empty."""
    source = data_uri(marked(overlay(picture, heat), **marks))
    if (heat > 0).any():
        return Tile(source, alt, title)
    return Tile(source, f"{alt} (the map is empty)", f"{title} (empty)")


def marked(
    image: Image.Image,
    rings: Sequence[tuple[float, float, float]] = (),
    cross: tuple[float, float] | None = None,
) -> Image.Image:
    """A copy with rings and a cross, light with a dark rim so that they show on anything.

    Args:
        image: square.
        rings: x, y and radius of each, in fractions of the side.
        cross: x and y of its middle, in fractions of the side.
    """
    side = image.width * _FINE
    layer = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(layer)
    for colour, width in (("#101418", 5 * _FINE), ("#ffffff", 2 * _FINE)):
        rim = width // 2
        for x, y, radius in rings:
            draw.circle((x * side, y * side), radius * side + rim, outline=colour, width=width)
        if cross is not None:
            x, y = cross[0] * side, cross[1] * side
            arm = 6 * _FINE + rim
            draw.line((x - arm, y, x + arm, y), fill=colour, width=width)
            draw.line((x, y - arm, x, y + arm), fill=colour, width=width)
    small = layer.resize(image.size, Image.Resampling.LANCZOS)
    return Image.alpha_composite(image.convert("RGBA"), small).convert("RGB")
