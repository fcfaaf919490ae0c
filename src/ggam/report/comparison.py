"""The comparison page: two or more models on the same test pictures (`ggam demo` ends with it)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ggam.data.records import FineGrainedDataset
from ggam.drawing.pages import data_uri, percent, write_page
from ggam.evaluation.accuracy import EvalReport
from ggam.evaluation.evaluate import check_fits
from ggam.evaluation.frames import Frame, discriminative_points
from ggam.evaluation.heat import peak
from ggam.evaluation.localization import LocalizationReport
from ggam.explanations.explanation import MAP_TITLES
from ggam.methods.base import FineGrainedModel
from ggam.report.cards import Card, Tile, heat_tile, maps_of, marked, picture_of, require_same

_SHEET_BYTES = 250_000
_SHEET_WIDTH = 1080


@dataclass(frozen=True)
class ComparisonEntry:
    """One of the compared models and what was measured of it, all on the same test split."""

    name: str
    model: FineGrainedModel
    report: EvalReport
    localization: LocalizationReport
    seconds: float | None = None
    """How long it trained."""


class _Group(NamedTuple):
    """The pictures that the same models named correctly."""

    right: list[str]
    """The names of these models."""
    pictures: int
    cards: list[Card]
    """Of some of them."""


def rings_of(dataset: FineGrainedDataset, index: int, alpha: float) -> tuple[tuple[float, float, float], ...]:
    """The discriminative parts of a sample that are visible in its crop, as circles in fractions of it.

    Args:
        dataset: with its evaluation transform.
        index: of the sample.
        alpha: their radius, as a share of the longer side of the object's box; none are drawn without a box.
    """
    sample = dataset.samples[index]
    if sample.box is None or dataset.transform is None:
        return ()
    frame = Frame.of(sample, dataset.transform)
    points = frame.to_crop(discriminative_points(sample, frame, dataset.discriminative.get(sample.label, ())))
    radius = alpha * max(sample.box.width, sample.box.height) / frame.side
    return tuple((x, y, radius) for x, y in points.tolist())


def write_comparison(
    out: Path | str,
    entries: Sequence[ComparisonEntry],
    dataset: FineGrainedDataset,
    *,
    title: str,
    subject: str = "object",
    sheet: Image.Image | None = None,
    commands: Sequence[tuple[str, str]] = (),
    examples: int = 4,
) -> Path:
    """Write one page that compares models: accuracy, where their heat maps peak, and pictures.

    Args:
        out: the HTML file.
        entries: at least two, evaluated on `dataset`.
        dataset: the test split with its evaluation transform.
        title: the headline.
        subject: what the pictures show, in the singular: "bird".
        sheet: a picture of the classes.
        commands: what to do next, as (command, one sentence about it).
        examples: the most pictures in each group of right and wrong answers.

    Returns:
        The page.

    Raises:
        ValueError: if there are fewer than two entries, or they were not evaluated on this data set.
        DataError: if a picture cannot be read.
    """
    if len(entries) < 2:
        raise ValueError(f"a comparison of {len(entries)} models: expected at least 2")
    for entry in entries:
        check_fits(entry.model, dataset)
        require_same(entry.name, entry.report, dataset)
    if sheet is not None:
        sheet = sheet.convert("RGB")
        sheet.thumbnail((_SHEET_WIDTH, 4 * _SHEET_WIDTH), Image.Resampling.LANCZOS)
    return write_page(
        Path(out),
        "comparison.html",
        title=title,
        subject=subject,
        entries=entries,
        dataset=dataset,
        groups=_groups(entries, dataset, examples),
        sheet=sheet,
        source="" if sheet is None else data_uri(sheet, _SHEET_BYTES),
        commands=commands,
    )


def _groups(entries: Sequence[ComparisonEntry], dataset: FineGrainedDataset, examples: int) -> list[_Group]:
    """The pictures by who was right: all first, none last, drawn at random within each group."""
    members: dict[tuple[bool, ...], list[int]] = {}
    for index in range(len(dataset)):
        right = tuple(entry.report.predictions[index].rank == 1 for entry in entries)
        members.setdefault(right, []).append(index)
    rng = np.random.default_rng(0)
    groups = []
    for right, indices in sorted(members.items(), reverse=True):
        names = [entry.name for entry, was in zip(entries, right, strict=True) if was]
        drawn = sorted(indices[i] for i in rng.permutation(len(indices))[:examples])
        groups.append(_Group(names, len(indices), [_card(entries, dataset, index) for index in drawn]))
    return groups


def _card(entries: Sequence[ComparisonEntry], dataset: FineGrainedDataset, index: int) -> Card:
    label = dataset.samples[index].label
    names = dataset.class_names
    parts = [dataset.part_names[part] for part in dataset.discriminative.get(label, ())]
    note = " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
    picture = picture_of(dataset, index)
    rings = rings_of(dataset, index, entries[0].localization.alpha)
    tiles = [Tile(data_uri(marked(picture, rings)), f"Test picture of {names[label]}", "picture")]
    answers = [entry.report.predictions[index] for entry in entries]
    for entry, answer in zip(entries, answers, strict=True):
        said = names[answer.predicted]
        for kind, heat in maps_of(entry.model, dataset, index).items():
            title = f"{entry.name}: {MAP_TITLES[kind]}"
            alt = f"{title} map of this picture, for {said}"
            tile = heat_tile(picture, heat, title, alt, rings=rings, cross=_cross(heat))
            if kind == "gradcam":
                verdict = "right" if answer.rank == 1 else "wrong"
                tile = replace(tile, says=f"{said} {percent(answer.probability)}", verdict=verdict)
            tiles.append(tile)
    right = {answer.rank == 1 for answer in answers}
    verdict = "" if len(right) > 1 else "right" if True in right else "wrong"
    return Card(names[label], f"discriminative: {note}" if note else "", verdict, tiles)


def _cross(heat: np.ndarray) -> tuple[float, float] | None:
    x, y = peak(torch.from_numpy(heat)[None])[0].tolist()
    return (x, y) if np.isfinite(x) else None
