"""The comparison page: two or more models on the same test pictures (`ggam demo` ends with it)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ggam.data.records import FineGrainedDataset
from ggam.drawing.pages import data_uri, interval, percent, write_page
from ggam.evaluation.accuracy import EvalReport, Prediction
from ggam.evaluation.evaluate import check_fits
from ggam.evaluation.frames import Frame, discriminative_points
from ggam.evaluation.heat import peak
from ggam.evaluation.localization import LocalizationReport
from ggam.explanations.explanation import MAP_TITLES
from ggam.methods.base import FineGrainedModel
from ggam.report.cards import Card, Marks, Tile, heat_tile, maps_of, marked, picture_of

_SHEET_BYTES = 250_000
_SHEET_WIDTH = 1080
_COLOURS = 3
_CONTROL = "Without a model"
_CENTRE = "always pointing at the centre"


@dataclass(frozen=True)
class ComparisonEntry:
    """One of the compared models and what was measured of it, all on the same test split."""

    name: str
    model: FineGrainedModel
    report: EvalReport
    localization: LocalizationReport
    seconds: float | None = None
    """How long it trained."""


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
    radius = alpha * max(sample.box.width, sample.box.height) / (frame.region.right - frame.region.left)
    return tuple((x, y, radius) for x, y in points.tolist())


@dataclass(frozen=True)
class _Score:
    name: str
    value: float | None
    detail: str
    colour: str


@dataclass(frozen=True)
class _Row:
    name: str
    detail: str
    scores: list[_Score]


@dataclass(frozen=True)
class _Group:
    name: str
    count: int
    cases: list[Card]


@dataclass(frozen=True)
class _Sheet:
    source: str
    width: int
    height: int
    text: str


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
    _check(entries, dataset)
    return write_page(
        Path(out),
        "comparison.html",
        title=title,
        lead=_lead(entries, subject),
        names=[entry.name for entry in entries],
        control=_CONTROL,
        rows=[row for row in _rows(entries, subject) if row.scores],
        sheet=None if sheet is None else _sheet(sheet, dataset, subject),
        rings=bool(dataset.discriminative),
        groups=_groups(entries, dataset, examples),
        total=len(dataset),
        method=_method(entries, subject),
        commands=commands,
    )


def _check(entries: Sequence[ComparisonEntry], dataset: FineGrainedDataset) -> None:
    if len(entries) < 2:
        raise ValueError(f"a comparison of {len(entries)} models: expected at least 2")
    for entry in entries:
        check_fits(entry.model, dataset)
        labels = [prediction.label for prediction in entry.report.predictions]
        if labels != dataset.labels:
            raise ValueError(
                f"{entry.name} was evaluated on {len(labels)} pictures that are not the {len(dataset)} of "
                f"{dataset.root}; evaluate all entries on the same data set"
            )


def _lead(entries: Sequence[ComparisonEntry], subject: str) -> str:
    """What was found, in one or two sentences, whoever came out first."""
    first, *others = sorted(entries, key=lambda entry: -entry.report.top1)
    count = len(first.report.predictions)
    ranking = ", ".join(f"{entry.name} {percent(entry.report.top1)}" for entry in others)
    winner = first.name[:1].upper() + first.name[1:]
    text = f"{winner} names {percent(first.report.top1)} of {count} unseen pictures correctly, {ranking}."
    peaks = [
        f"{percent(entry.localization.on_part)} ({entry.name})"
        for entry in entries
        if entry.localization.on_part is not None
    ]
    if len(peaks) < len(entries):
        return text
    return (
        f"{text} The hottest point of the heat map lies on the part that sets the {subject}’s class apart in "
        f"{' and '.join(peaks)} of them; always pointing at the centre would reach "
        f"{percent(entries[0].localization.centre_on_part)}."
    )


def _rows(entries: Sequence[ComparisonEntry], subject: str) -> list[_Row]:
    classes = len(entries[0].report.class_names)
    pictures = len(entries[0].report.predictions)
    places = [entry.localization for entry in entries]
    return [
        _row(
            "Named correctly",
            f"top-1 accuracy, {pictures} test pictures, {classes} classes",
            pictures,
            [(entry.name, entry.report.top1) for entry in entries],
            (1 / classes, "guessing"),
        ),
        _row(
            f"Looks at the {subject}",
            f"hottest point of the heat map on the {subject}, {places[0].object_pictures} pictures",
            places[0].object_pictures,
            [(entry.name, place.on_object) for entry, place in zip(entries, places, strict=True)],
            (places[0].centre_on_object, _CENTRE),
        ),
        _row(
            "Looks at the part that matters",
            f"hottest point on the part that sets the class apart, {places[0].part_pictures} pictures",
            places[0].part_pictures,
            [(entry.name, place.on_part) for entry, place in zip(entries, places, strict=True)],
            (places[0].centre_on_part, _CENTRE),
        ),
    ]


def _row(
    name: str,
    detail: str,
    count: int,
    values: Sequence[tuple[str, float | None]],
    control: tuple[float | None, str],
) -> _Row:
    """One measure of all models; without pictures to take it on, its row is empty and not shown."""
    if not count:
        return _Row(name, detail, [])
    scores = []
    for number, (entry, value) in enumerate(values):
        spread = "" if value is None else f"95 % interval {interval(value, count)}"
        scores.append(_Score(entry, value, spread, f"s{number % _COLOURS}"))
    level, how = control
    if level is not None and all(value is not None and value <= level for _, value in values):
        detail += f"; {how} does no worse, so this row says nothing of the models"
    return _Row(name, detail, [*scores, _Score(_CONTROL, level, how, "")])


def _groups(entries: Sequence[ComparisonEntry], dataset: FineGrainedDataset, examples: int) -> list[_Group]:
    """The pictures by who was right: all first, none last, drawn at random within each group."""
    members: dict[tuple[bool, ...], list[int]] = {}
    for index in range(len(dataset)):
        right = tuple(entry.report.predictions[index].rank == 1 for entry in entries)
        members.setdefault(right, []).append(index)
    rng = np.random.default_rng(0)
    drawn = {
        right: sorted(found[i] for i in rng.permutation(len(found))[:examples])
        for right, found in sorted(members.items(), reverse=True)
    }
    wanted = sorted(index for indices in drawn.values() for index in indices)
    maps = [maps_of(entry.model, dataset, wanted) for entry in entries]
    return [
        _Group(
            _group_name(right, entries),
            len(members[right]),
            [_card(entries, dataset, [found[index] for found in maps], index) for index in indices],
        )
        for right, indices in drawn.items()
    ]


def _group_name(right: Sequence[bool], entries: Sequence[ComparisonEntry]) -> str:
    everyone = "Both" if len(entries) == 2 else "All"
    if all(right):
        return f"{everyone} right"
    if not any(right):
        return f"{everyone} wrong"
    return f"Only {' and '.join(e.name for e, was in zip(entries, right, strict=True) if was)} right"


def _card(
    entries: Sequence[ComparisonEntry],
    dataset: FineGrainedDataset,
    maps: Sequence[Mapping[str, np.ndarray]],
    index: int,
) -> Card:
    sample = dataset.samples[index]
    name = dataset.class_names[sample.label]
    discriminative = dataset.discriminative.get(sample.label, ())
    note = _listed([dataset.part_names[part] for part in discriminative])
    picture = picture_of(dataset, index)
    rings = rings_of(dataset, index, entries[0].localization.alpha)
    tiles = [Tile(data_uri(marked(picture, Marks(rings))), f"Test picture of {name}", "picture")]
    for entry, found in zip(entries, maps, strict=True):
        prediction = entry.report.predictions[index]
        for kind, heat in found.items():
            title = f"{entry.name}: {MAP_TITLES[kind]}"
            alt = f"{title} map of this picture, for {dataset.class_names[prediction.predicted]}"
            tile = heat_tile(picture, heat, title, alt, Marks(rings, _cross(heat)))
            tiles.append(replace(tile, **_answer(prediction, dataset)) if kind == "gradcam" else tile)
    right = sum(entry.report.predictions[index].rank == 1 for entry in entries)
    verdict = "right" if right == len(entries) else "wrong" if right == 0 else ""
    return Card(name, f"discriminative: {note}" if note else "", verdict, tuple(tiles))


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _answer(prediction: Prediction, dataset: FineGrainedDataset) -> dict[str, str]:
    said = f"{dataset.class_names[prediction.predicted]} {percent(prediction.probability)}"
    return {"says": said, "verdict": "right" if prediction.rank == 1 else "wrong"}


def _cross(heat: np.ndarray) -> tuple[float, float] | None:
    x, y = peak(torch.from_numpy(heat)[None])[0].tolist()
    return (x, y) if np.isfinite(x) else None


def _method(entries: Sequence[ComparisonEntry], subject: str) -> list[str]:
    location = entries[0].localization
    empty = ", ".join(f"{entry.name} {entry.localization.empty}" for entry in entries)
    texts = [
        "The models saw none of these pictures in training, and nothing was chosen on them. The interval "
        "says how far the choice of the test pictures may have moved a figure; training again with another "
        "seed would move it too.",
        "The heat map is Grad-CAM of the class that the model chose. The test of its hottest point is the "
        "pointing game (Zhang et al., 2016), without tolerance. A part counts as hit within "
        f"{location.alpha:g} of the longer side of the {subject}’s box. A map without any heat is a miss "
        f"({empty} of {location.pictures}).",
    ]
    if location.part_pictures and location.part_pictures < location.pictures:
        texts.append(
            f"On {location.pictures - location.part_pictures} pictures the part that matters is hidden or "
            "outside the crop; these do not count in the last row."
        )
    spent = [f"{entry.name} {entry.seconds:.0f} s" for entry in entries if entry.seconds is not None]
    if spent:
        texts.append(f"Time to train: {', '.join(spent)}.")
    return texts


def _sheet(sheet: Image.Image, dataset: FineGrainedDataset, subject: str) -> _Sheet:
    image = sheet.convert("RGB")
    image.thumbnail((_SHEET_WIDTH, 4 * _SHEET_WIDTH), Image.Resampling.LANCZOS)
    text = f"The {len(dataset.class_names)} classes of {subject}."
    return _Sheet(data_uri(image, _SHEET_BYTES), image.width, image.height, text)
