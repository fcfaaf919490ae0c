"""The gallery: where each picture lies, what it shows, and that it cannot become too large."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from ggam.data.records import FineGrainedDataset
from ggam.drawing.overlays import as_pictures, overlay
from ggam.evaluation.accuracy import EvalReport, Prediction
from ggam.evaluation.annotations import Annotations
from ggam.evaluation.evaluate import evaluate
from ggam.evaluation.localization import local_scores
from ggam.explanations.explanation import explain
from ggam.methods.base import FineGrainedModel
from ggam.report import gallery as module
from ggam.report.gallery import (
    COLUMNS,
    FORMS,
    LIMIT,
    MOST,
    ROWS,
    Gallery,
    Seen,
    Sheet,
    compressed,
    draw_gallery,
)

CUB_TEST = 5794
PAGE = 5_000_000
"""More than a page with a row of data for each of 12,000 pictures takes, see test_run."""


def answers(labels: Sequence[int], right: Sequence[bool], classes: int = 3) -> EvalReport:
    """An evaluation with these answers, the next class where one is wrong; the later, the surer."""
    count = len(labels)
    predictions = tuple(
        Prediction(f"{index}.jpg", label, label, 0.5 + index / (2 * count), 0.5, 1)
        if ok
        else Prediction(f"{index}.jpg", label, (label + 1) % classes, 0.5 + index / (2 * count), 0.1, 2)
        for index, (label, ok) in enumerate(zip(labels, right, strict=True))
    )
    names = tuple(f"class {number}" for number in range(classes))
    return EvalReport(names, predictions, 1.0, uncalibrated_ece=0.1)


def places(sheet: Sheet) -> list[int]:
    """Every place that a tile of the sheet takes."""
    return [shot.start + place for shot in sheet.shots for place in range(2 + shot.mistaken)]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=250))
def test_every_picture_has_a_place_of_its_own(pairs: list[tuple[int, bool]]) -> None:
    report = answers([label for label, _ in pairs], [right for _, right in pairs])
    gallery = Gallery.of(report)
    assert sorted(gallery.order) == list(range(len(pairs)))
    assert [sheet.number for sheet in gallery.sheets] == list(range(len(gallery.sheets)))
    for sheet in gallery.sheets:
        taken = places(sheet)
        assert len(set(taken)) == len(taken)
        assert min(taken) >= 0 and max(taken) < sheet.rows * COLUMNS <= ROWS * COLUMNS
        assert len({shot.prediction.label for shot in sheet.shots}) == 1
        assert len(sheet.mistakes) == sum(shot.mistaken for shot in sheet.shots)
        for shot in sheet.shots:  # in one row
            assert shot.start // COLUMNS == (shot.start + 1 + shot.mistaken) // COLUMNS
            assert shot.prediction is report.predictions[shot.index]


def test_the_layout_by_hand() -> None:
    """One class, five pictures, no. 1 and 3 mistaken: these first, the surest first."""
    gallery = Gallery.of(answers([1] * 5, [True, False, True, False, True]))
    (sheet,) = gallery.sheets
    assert [(shot.index, shot.start) for shot in sheet.shots] == [(3, 0), (1, 3), (4, 6), (2, 8), (0, 10)]
    assert (sheet.title, sheet.rows, sheet.file) == ("class 1", 2, "gallery/0000.webp")
    assert sheet.mistakes == ("class 2 80.0\N{NO-BREAK SPACE}%", "class 2 60.0\N{NO-BREAK SPACE}%")
    data = gallery.data([Seen(7, 0), Seen(-1, 3), Seen(0, 0), Seen(100, 0), Seen(50, 1)])
    assert data["sheets"] == [["gallery/0000.webp", 2]]
    assert data["shots"][0] == [0, 0, 1, 2, 800, 100, "3.jpg", 7, 0]
    assert data["shots"][1] == [0, 3, 1, 2, 600, 100, "1.jpg", -1, 3]


def test_a_large_class_takes_several_sheets() -> None:
    gallery = Gallery.of(answers([0] * 100, [True] * 100))
    assert [(sheet.title, sheet.rows, len(sheet.shots)) for sheet in gallery.sheets] == [
        ("class 0, sheet 1 of 3", 16, 48),
        ("class 0, sheet 2 of 3", 16, 48),
        ("class 0, sheet 3 of 3", 2, 4),
    ]


def test_of_too_many_pictures_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 10)
    gallery = Gallery.of(answers([0] * 30, [True] * 30))
    assert len(gallery.order) == len(set(gallery.order)) == 10 and gallery.total == 30


@pytest.mark.parametrize("known", [True, False])
def test_a_drawn_sheet_holds_the_pictures_and_their_maps(
    models: dict[str, FineGrainedModel], annotated: FineGrainedDataset, tmp_path: Path, known: bool
) -> None:
    model, dataset = models["ggam"], annotated
    if not known:
        bare = [sample.__class__(sample.path, sample.label) for sample in dataset.samples]
        dataset = FineGrainedDataset(
            bare,
            dataset.class_names,
            root=dataset.root,
            layout="",
            split="test",
            transform=dataset.transform,
        )
    report = evaluate(model, dataset)
    gallery = Gallery.of(report)
    stale = tmp_path / "gallery" / "0999.webp"
    stale.parent.mkdir()
    stale.write_bytes(b"")
    steps: list[tuple[int, int]] = []
    seen = draw_gallery(
        gallery,
        tmp_path,
        model,
        dataset,
        limit=2_000_000,
        batch_size=4,
        on_batch=lambda *step: steps.append(step),
    )
    assert steps == [(number, 9) for number in range(1, 10)]
    assert sorted(file.name for file in stale.parent.iterdir()) == [
        f"{sheet.number:04d}.webp" for sheet in gallery.sheets
    ]
    sheet = gallery.sheets[0]
    with Image.open(tmp_path / sheet.file) as stored:
        pixels = np.asarray(stored.convert("RGB")).astype(int)
    side = gallery.side
    assert pixels.shape == (sheet.rows * side, COLUMNS * side, 3)
    shot = sheet.shots[0]
    image = dataset[shot.index][0][None]
    (picture,) = as_pictures(image, model.config.mean, model.config.std, side)
    heat = explain(model, image, torch.tensor([shot.prediction.predicted])).maps[0]
    for place, expected in enumerate((picture, overlay(picture, heat)), start=shot.start):
        row, column = divmod(place, COLUMNS)
        tile = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
        assert np.abs(tile - np.asarray(expected).astype(int)).mean() < 14  # noise, compressed
    maps = explain(model, torch.stack([dataset[index][0] for index in gallery.order])).maps
    if known:
        scores = local_scores(maps, Annotations.of(dataset, gallery.order)).values["energy"]
        assert [one.located for one in seen] == np.round(100 * scores).astype(int).tolist()
    else:
        assert [one.located for one in seen] == [-1] * 9
    empty = (maps.flatten(1).amax(dim=1) <= 0).int().tolist()
    assert [one.empty & 1 for one in seen] == empty


def noise(side: int, rows: int = ROWS) -> Image.Image:
    """A sheet of the worst pictures there are: every pixel by chance."""
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (rows * side, COLUMNS * side, 3), dtype=np.uint8))


def test_a_sheet_takes_the_best_form_that_fits() -> None:
    sheet = noise(32)
    sizes = [len(compressed(sheet, 10**9, best)[0]) for best in range(len(FORMS))]
    assert sizes == sorted(sizes, reverse=True)
    for best, size in enumerate(sizes):
        content, form = compressed(sheet, size)
        assert len(content) <= size and sizes[form] == len(content) and form <= best
    content, form = compressed(sheet, 1)
    assert form == len(FORMS) - 1
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (sheet.width // 4, sheet.height // 4)


@pytest.mark.parametrize("pictures", [2500, CUB_TEST, MOST])
def test_the_largest_galleries_stay_within_their_bytes(pictures: int) -> None:
    """Even if every picture is noise and every answer wrong, so that each has three tiles."""
    gallery = Gallery.of(answers([index % 200 for index in range(pictures)], [False] * pictures, 200))
    tiles = COLUMNS * sum(sheet.rows for sheet in gallery.sheets)
    sheet = noise(gallery.side, rows=4)
    smallest = len(compressed(sheet, 0, len(FORMS) - 1)[0]) / (4 * COLUMNS)
    assert tiles * smallest < LIMIT - PAGE


def test_cub_fits_without_losing_resolution() -> None:
    """Tiles of 1.2 kB on average, which photographs of 112 pixels take at WebP's quality 50."""
    gallery = Gallery.of(
        answers([index % 200 for index in range(CUB_TEST)], [i % 8 > 0 for i in range(CUB_TEST)], 200)
    )
    tiles = COLUMNS * sum(sheet.rows for sheet in gallery.sheets)
    assert gallery.side == 112 and len(gallery.order) == CUB_TEST
    assert (LIMIT - PAGE / 2) / tiles > 1_200


def test_a_tight_limit_is_kept(
    models: dict[str, FineGrainedModel], annotated: FineGrainedDataset, tmp_path: Path
) -> None:
    gallery = Gallery.of(evaluate(models["baseline"], annotated))
    sizes = []
    for limit in (400_000, 60_000, 12_000):
        draw_gallery(gallery, tmp_path, models["baseline"], annotated, limit=limit)
        sizes.append(sum(file.stat().st_size for file in (tmp_path / "gallery").iterdir()))
        assert sizes[-1] <= limit
    assert sizes == sorted(sizes, reverse=True)
