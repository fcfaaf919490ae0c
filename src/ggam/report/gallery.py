"""The gallery of a run's test pictures: sheets of small pictures and maps, bounded in bytes.

A sheet is one WebP of tiles of one class. A picture has two tiles in a row, itself and its Grad-CAM map for
the class that the model chose; one that was mistaken has a third, the map for its own class.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ggam.data.loaders import eval_loader
from ggam.data.records import FineGrainedDataset
from ggam.drawing.overlays import as_pictures, encoded, overlay
from ggam.drawing.pages import percent
from ggam.evaluation.accuracy import EvalReport, Prediction
from ggam.evaluation.annotations import GRID, Annotations
from ggam.evaluation.evaluate import in_one_line
from ggam.evaluation.heat import heat_share, resample
from ggam.explanations.explanation import explain
from ggam.methods.base import FineGrainedModel
from ggam.system.files import write_atomic

LIMIT = 20_000_000
"""The most bytes that a report and its gallery take together."""
MOST = 12_000
"""The most pictures of a gallery; of more, as many are drawn at random."""
FOLDER = "gallery"
COLUMNS = 6
ROWS = 16
"""The most rows of a sheet."""
FORMS = ((1.0, 80), (1.0, 65), (1.0, 50), (1.0, 35), (0.75, 35), (0.5, 35), (0.5, 10), (0.25, 10), (0.25, 0))
"""Scale and WebP quality of a sheet, the best first; the last fits whatever the pictures are."""
_SIDES = ((2500, 144), (MOST, 112))
"""Up to how many pictures a tile has how many pixels along each side."""


class Seen(NamedTuple):
    """What is known of a picture once it is explained."""

    located: int
    """The share of the heat on the object in percent; -1 where nothing is known of the object."""
    empty: int
    """Which maps have no heat: 1 for that of the prediction, plus 2 for that of its own class."""


@dataclass(frozen=True)
class Shot:
    """One picture of the gallery."""

    index: int
    """Of the data set's samples."""
    start: int
    """The place of its first tile in the sheet, row by row."""
    prediction: Prediction

    @property
    def mistaken(self) -> bool:
        """Whether it has a third tile, the map for its own class."""
        return self.prediction.rank > 1


@dataclass(frozen=True)
class Sheet:
    """The tiles of some pictures of one class."""

    number: int
    title: str
    rows: int
    shots: tuple[Shot, ...]
    mistakes: tuple[str, ...]
    """What was said of the mistaken pictures, which come first, and how sure the model was."""

    @property
    def file(self) -> str:
        """Its address, as the page has it."""
        return f"{FOLDER}/{self.number:04d}.webp"


@dataclass(frozen=True)
class Gallery:
    """Which picture lies where; nothing is drawn yet."""

    sheets: tuple[Sheet, ...]
    class_names: tuple[str, ...]
    total: int
    """Pictures of the data set, of which the gallery may have fewer."""

    @classmethod
    def of(cls, report: EvalReport) -> "Gallery":
        """Lay out the pictures of an evaluation: by class, the mistakes first, the surest first."""
        found = report.predictions
        drawn = np.random.default_rng(0).permutation(len(found))[:MOST].tolist()
        by_class: dict[int, list[int]] = {}
        for index in sorted(drawn, key=lambda i: (found[i].rank == 1, -found[i].probability, i)):
            by_class.setdefault(found[index].label, []).append(index)
        sheets: list[Sheet] = []
        for label, indices in sorted(by_class.items()):
            sheets += _sheets(report, label, indices, len(sheets))
        return cls(tuple(sheets), report.class_names, len(found))

    @cached_property
    def order(self) -> list[int]:
        """The indices of all pictures, sheet by sheet."""
        return [shot.index for sheet in self.sheets for shot in sheet.shots]

    @property
    def side(self) -> int:
        """Height and width of a tile, in pixels."""
        return next(side for most, side in _SIDES if len(self.order) <= most)

    def data(self, seen: Sequence[Seen]) -> dict[str, Any]:
        """What the page's script needs.

        Args:
            seen: what `draw_gallery` saw of each picture, in `order`.
        """
        facts = iter(seen)
        return {
            "classes": self.class_names,
            "columns": COLUMNS,
            "sheets": [[sheet.file, sheet.rows] for sheet in self.sheets],
            "shots": [
                [sheet.number, shot.start, *_facts(shot.prediction), *next(facts)]
                for sheet in self.sheets
                for shot in sheet.shots
            ],
        }


def draw_gallery(
    gallery: Gallery,
    folder: Path,
    model: FineGrainedModel,
    dataset: FineGrainedDataset,
    *,
    limit: int,
    batch_size: int = 32,
    workers: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
) -> list[Seen]:
    """Explain the pictures in one pass and write the sheets, which replace all that were there.

    Args:
        gallery: the layout, of an evaluation of this model on this data set.
        folder: where the sheets' folder goes, the page's own.
        model: explained where it is, in float32.
        dataset: the test split with its evaluation transform.
        limit: the most bytes of all sheets together.
        batch_size: pictures at a time.
        workers: processes that read pictures; 0 reads them here.
        on_batch: called with the pictures done and the pictures in all.

    Returns:
        What was seen of each picture, in the gallery's order.

    Raises:
        DataError: if a picture or a mask cannot be read.
    """
    shots = [shot for sheet in gallery.sheets for shot in sheet.shots]
    tiles = _tiles(shots, model, dataset.subset(gallery.order), gallery.side, batch_size, workers)
    seen: list[Seen] = []
    written: set[Path] = set()
    left, rows, best = limit, sum(sheet.rows for sheet in gallery.sheets), 0
    for sheet in gallery.sheets:
        canvas = Image.new("RGB", (COLUMNS * gallery.side, sheet.rows * gallery.side))
        for shot in sheet.shots:
            found, pictures = next(tiles)
            seen.append(found)
            for place, tile in enumerate(pictures, start=shot.start):
                row, column = divmod(place, COLUMNS)
                canvas.paste(tile, (column * gallery.side, row * gallery.side))
            if on_batch is not None:
                on_batch(len(seen), len(shots))
        content, best = compressed(canvas, left * sheet.rows // rows, max(0, best - 1))
        left, rows = left - len(content), rows - sheet.rows
        written.add(folder / sheet.file)
        write_atomic(folder / sheet.file, content)
    for stale in set((folder / FOLDER).glob("*.webp")) - written:
        stale.unlink()
    return seen


def compressed(sheet: Image.Image, limit: int, best: int = 0) -> tuple[bytes, int]:
    """A sheet as WebP, in the best of `FORMS` that takes no more than `limit` bytes.

    Args:
        sheet: RGB.
        limit: in bytes; the last form is taken even if it is larger.
        best: the form to begin with: what came before needed one near it.

    Returns:
        The file, and the number of its form.
    """
    content = b""
    for number, (scale, quality) in enumerate(FORMS[best:], start=best):
        size = (round(sheet.width * scale), round(sheet.height * scale))
        scaled = sheet if scale == 1 else sheet.resize(size, Image.Resampling.BOX)
        content = encoded(scaled, "WEBP", quality=quality, method=4)
        if len(content) <= limit:
            return content, number
    return content, len(FORMS) - 1


def _tiles(
    shots: Sequence[Shot],
    model: FineGrainedModel,
    dataset: FineGrainedDataset,
    side: int,
    batch_size: int,
    workers: int,
) -> Iterator[tuple[Seen, list[Image.Image]]]:
    """What is seen of each picture, and its tiles."""
    assert dataset.transform is not None
    device = next(model.parameters()).device
    known = any(sample.box or sample.mask for sample in dataset.samples)
    done = 0
    for images, _ in in_one_line(eval_loader(dataset, batch_size=batch_size, workers=workers)):
        images = images.to(device, memory_format=torch.channels_last)
        some = shots[done : done + len(images)]
        classes = torch.tensor([(shot.prediction.predicted, shot.prediction.label) for shot in some])
        explanation = explain(model, images, classes)
        maps = explanation.maps.float().cpu()
        empty = (explanation.empty.cpu() * torch.tensor([1, 2])).sum(dim=1).tolist()
        shares = [-1] * len(some)
        if known:
            known = Annotations.of(dataset, range(done, done + len(some)))
            located = heat_share(resample(maps[:, 0], GRID), known.coverage)
            shares = (100 * located).round().nan_to_num(-1).int().tolist()
        done += len(some)
        pictures = as_pictures(images, dataset.transform.mean, dataset.transform.std, side)
        for shot, picture, heat, *facts in zip(some, pictures, maps.numpy(), shares, empty, strict=True):
            yield Seen(*facts), [picture, *(overlay(picture, one) for one in heat[: 1 + shot.mistaken])]


def _sheets(report: EvalReport, label: int, indices: Sequence[int], first: int) -> list[Sheet]:
    """The sheets of one class; a row holds two mistaken pictures or three others."""
    mistaken = [index for index in indices if report.predictions[index].rank > 1]
    others = indices[len(mistaken) :]
    rows = [mistaken[at : at + 2] for at in range(0, len(mistaken), 2)]
    rows += [others[at : at + 3] for at in range(0, len(others), 3)]
    parts = [rows[at : at + ROWS] for at in range(0, len(rows), ROWS)]
    sheets = []
    for number, part in enumerate(parts, start=1):
        shots = tuple(
            Shot(index, row * COLUMNS + place * (3 if report.predictions[index].rank > 1 else 2), found)
            for row, members in enumerate(part)
            for place, index in enumerate(members)
            for found in (report.predictions[index],)
        )
        title = report.class_names[label] + (f", sheet {number} of {len(parts)}" if len(parts) > 1 else "")
        said = tuple(
            f"{report.class_names[shot.prediction.predicted]} {percent(shot.prediction.probability)}"
            for shot in shots
            if shot.mistaken
        )
        sheets.append(Sheet(first + len(sheets), title, len(part), shots, said))
    return sheets


def _facts(prediction: Prediction) -> tuple[int, int, int, int, str]:
    """Label, prediction, their probabilities (the prediction's first) in thousandths, and the file's name."""
    sure, own = (round(1000 * p) for p in (prediction.probability, prediction.label_probability))
    return prediction.label, prediction.predicted, sure, own, Path(prediction.path).name
