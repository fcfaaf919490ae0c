"""Figure 3: what the eight networks of Table 3 look at in the same pictures.

From the folder of a `table3` study to what is drawn: the networks of one seed, a few pictures, and of
each pair the predicted class and the heat map. `figure3_drawing` makes the figure of it, and
`figure3_outputs` the files.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ggam.data.records import DataError, FineGrainedDataset, Sample, readable_names
from ggam.drawing.overlays import overlay
from ggam.evaluation.accuracy import EvalReport
from ggam.evaluation.annotations import ALPHA
from ggam.evaluation.evaluate import check_fits, relative_path
from ggam.evaluation.frames import Frame
from ggam.explanations.explanation import available_maps, explain_maps
from ggam.methods.base import FineGrainedModel, ModelConfig
from ggam.report.comparison import rings_of
from ggam.report.panels import crop_of, picture_files
from ggam.runs.run import Run
from ggam.studies.definition import ATTENTION, PLAIN, table3
from ggam.studies.runner import RUNS
from ggam.system.devices import default_device

MapKind = Literal["gradcam", "gradcam-features", "spatial", "channel"]
"""Those kinds of `ggam.explanations.explanation.MAP_TITLES` that the networks of Table 3 have."""
GUIDANCE = ("without guidance", "with guidance")
COLUMNS = ("baseline", "channel", "spatial", "channel-spatial")
_ROWS = (PLAIN, "G", "C", "CG", "S", "SG", ATTENTION, "SCG")
PLACES: Mapping[str, tuple[str, str]] = dict(zip(_ROWS, product(COLUMNS, GUIDANCE), strict=True))
"""Where each row of Table 3 stands in the figure: its column, and its line of `GUIDANCE`."""
MOST_PICTURES = 12
_CROP = 448
"""Height and width of the crops kept for drawing, in pixels."""
_THIRDS = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)


class Figure3Error(ValueError):
    """A figure that cannot be made of this study, or not as asked."""


class Cell(NamedTuple):
    """What one network says of one picture, and why."""

    predicted: str
    probability: float
    """0 to 1."""
    right: bool | None
    """None where the true class is not known."""
    heat: np.ndarray | None
    """(H, W) float32, not normalised; None where the network has no such map."""

    @property
    def sign(self) -> str:
        """✓ or ✗, nothing where the true class is not known."""
        return "" if self.right is None else "\N{CHECK MARK}" if self.right else "\N{BALLOT X}"

    @property
    def peak(self) -> str:
        """Where the map is highest, in words, for those who cannot see it."""
        if self.heat is None:
            return "no such map"
        if not (self.heat > 0).any():
            return "the map is empty"
        place = np.unravel_index(self.heat.argmax(), self.heat.shape)
        down, across = (int(3 * (at + 0.5) / size) for at, size in zip(place, self.heat.shape, strict=True))
        return f"highest {_THIRDS[down][across]}"


@dataclass(frozen=True)
class Subject:
    """One picture, and its cells. Places are fractions of the crop."""

    name: str
    """Its path below the data set's folder; of other pictures the name of the file."""
    label: str | None
    """The true class, None if it is not known."""
    split: str | None
    """`train` or `test`; None for a picture that is not of the study's data."""
    crop: Image.Image
    """RGB, what the networks were shown."""
    box: tuple[float, ...] | None
    """Left, top, right, bottom."""
    rings: tuple[tuple[float, float, float], ...]
    """x, y, radius of the parts that tell the class; the radius is what counts as on the part."""
    cells: dict[str, Cell]
    """By row of Table 3, in the order of `PLACES`."""

    @property
    def tally(self) -> str:
        """How many of the networks are right, in words; empty if the true class is not known."""
        if self.label is None:
            return ""
        return f"{sum(bool(cell.right) for cell in self.cells.values())} of {len(self.cells)} right"

    def picture(self, side: int, heat: np.ndarray | None = None) -> Image.Image:
        """The crop, `side` pixels high and wide, with heat over it where some is given."""
        picture = self.crop.resize((side, side), Image.Resampling.LANCZOS)
        return picture if heat is None else overlay(picture, heat)


@dataclass(frozen=True)
class Figure3:
    """All that is drawn."""

    data: str
    """Name of the data set."""
    seed: int
    """Of the networks."""
    model: ModelConfig
    """Of the plain network; backbone, size and classes are those of all."""
    kind: MapKind
    choice: str
    """How the pictures came to be in the figure, in words."""
    subjects: tuple[Subject, ...]


def gather(
    study: Path,
    images: Sequence[Path] = (),
    *,
    seed: int | None = None,
    pictures: int = 4,
    kind: MapKind = "gradcam",
    on_network: Callable[[int, int], None] | None = None,
) -> Figure3:
    """Choose the pictures, and ask every network about them.

    Args:
        study: the folder of a finished `table3` study.
        images: picture files and folders of them; none takes test pictures that the networks disagree on.
        seed: whose networks; None takes the first seed.
        pictures: how many to choose, if there are no `images`.
        kind: of the heat maps; networks that have no such map have empty cells.
        on_network: called after each network with the networks done and the networks in all.

    Raises:
        Figure3Error: as `find_networks`, and for more pictures than `MOST_PICTURES`, or none.
        DataError: if a picture cannot be read.
        ValueError: if a run is damaged, or the data set is another one by now.
    """
    data, seed, runs = find_networks(study, seed)
    files = list(dict.fromkeys(picture_files(images)))
    wanted = len(files) if images else pictures
    if not 1 <= wanted <= MOST_PICTURES:
        raise Figure3Error(f"{wanted} pictures: expected 1 to {MOST_PICTURES} in one figure")
    config = runs[PLAIN].read_model().config
    dataset, splits, choice = _given(files, runs[PLAIN], config) if images else _chosen(runs, pictures)
    dataset = dataset.with_transform(config.transform())
    names = readable_names(config.class_names)
    subjects = _subjects(dataset, splits, names)
    pixels = torch.stack([dataset.load(sample) for sample in dataset.samples])
    for done, (row, run) in enumerate(runs.items(), 1):
        model = run.read_model()
        check_fits(model, dataset)
        for subject, (index, probability, heat) in zip(subjects, _ask(model, pixels, kind), strict=True):
            right = None if subject.label is None else names[index] == subject.label
            subject.cells[row] = Cell(names[index], probability, right, heat)
        if on_network is not None:
            on_network(done, len(runs))
    return Figure3(data, seed, config, kind, choice, subjects)


def find_networks(study: Path, seed: int | None = None) -> tuple[str, int, dict[str, Run]]:
    """What a `table3` study has finished: the name of its data set, a seed, and the run of each of `PLACES`.

    Args:
        study: its folder.
        seed: whose runs; None takes the first seed.

    Raises:
        Figure3Error: if one of the eight rows has no finished run with that seed.
    """
    file = study / "table3" / "table.json"
    try:
        table = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else error
        raise Figure3Error(
            f"{study}: holds no result of table3 ({file.relative_to(study)}: {reason}); make it with "
            f"ggam study table3 DATA --out {study}"
        ) from error
    found = {(run["row"], run["seed"]): Run(study / RUNS / run["run"]) for run in table["runs"]}
    seeds = sorted({number for _, number in found})
    chosen = min(seeds, default=0) if seed is None else seed
    if missing := [table3().row(row).label for row in PLACES if (row, chosen) not in found]:
        raise Figure3Error(
            f"{study}: no finished run with seed {chosen} of {', '.join(missing)} (seeds with runs: "
            f"{', '.join(map(str, seeds)) or 'none'}); go on with: {table['command']}"
        )
    return table["data"], chosen, {row: found[row, chosen] for row in PLACES}


def disagreements(reports: Sequence[EvalReport], number: int) -> list[int]:
    """The test pictures on which networks disagree most, of as many classes as possible.

    First those of which nearest to half of the networks name the class right; among equals, the one
    whose true class gets the smaller mean probability, and then the earlier one. No class comes a second
    time before each has come once.

    Args:
        reports: of the networks, on the same pictures in the same order.
        number: how many pictures.

    Returns:
        Their places in the reports, at most as many as there are pictures.
    """
    right = np.array([[p.rank == 1 for p in report.predictions] for report in reports]).sum(axis=0)
    sure = np.array([[p.label_probability for p in report.predictions] for report in reports]).mean(axis=0)
    ranking = np.lexsort((sure, abs(right - len(reports) / 2)))
    labels = [prediction.label for prediction in reports[0].predictions]
    seen = {label: count() for label in labels}
    rounds = [next(seen[labels[index]]) for index in ranking]
    return [int(ranking[place]) for place in np.argsort(rounds, kind="stable")[:number]]


def _chosen(runs: Mapping[str, Run], number: int) -> tuple[FineGrainedDataset, list[str | None], str]:
    """Test pictures that the networks disagree on, their split, and how they were chosen, in words."""
    reports = [EvalReport.read(run.evaluation(run.read_results().selected)) for run in runs.values()]
    test = runs[PLAIN].dataset("test")
    names = [relative_path(sample.path, test.root) for sample in test.samples]
    if any([p.path for p in report.predictions] != names for report in reports):
        raise DataError(
            f"{test.root}: its test pictures are others than those that the networks of the study were "
            "measured on; put them back, or name pictures"
        )
    indices = disagreements(reports, number)
    everywhere = np.mean([report.top1 for report in reports])
    here = np.mean([report.predictions[index].rank == 1 for report in reports for index in indices])
    choice = (
        f"The pictures were chosen by rule among all {len(test)} test pictures: of different classes, those "
        "of which nearest to half of the eight networks name the class right, and among equals those whose "
        f"true class gets the lowest probability. So they are not typical: the networks are right in "
        f"{here:.0%} of these cases, and in {everywhere:.0%} over all test pictures."
    )
    return test.subset(indices), ["test"] * len(indices), choice


def _given(
    files: Sequence[Path], run: Run, config: ModelConfig
) -> tuple[FineGrainedDataset, list[str | None], str]:
    """As `_chosen`: the given pictures, with what the study's data set knows of them."""
    dataset = FineGrainedDataset([], config.class_names, root=Path(), layout="files", split="test")
    known: dict[Path, tuple[Sample, str]] = {}
    with suppress(DataError):  # the pictures are here, whatever has become of the data
        for dataset in (run.dataset("train"), run.dataset("test")):
            known |= {sample.path.resolve(): (sample, dataset.split) for sample in dataset.samples}
    found = [known.get(file.resolve(), (Sample(file, 0), None)) for file in files]
    dataset.samples = [sample for sample, _ in found]
    return dataset, [split for _, split in found], "The pictures were chosen by hand."


def _ask(
    model: FineGrainedModel, images: Tensor, kind: MapKind
) -> list[tuple[int, float, np.ndarray | None]]:
    """One network's answer to each image: the predicted class, its probability, and the heat map."""
    kinds = [kind] if kind in available_maps(model) else []
    explanation, maps = explain_maps(model.to(default_device()), images, kinds=kinds)
    sure, best = model.config.probabilities(explanation.logits.float()).max(dim=1)
    heat = list(maps[kind].float().cpu().numpy()) if kinds else [None] * len(images)
    return list(zip(best.tolist(), sure.tolist(), heat, strict=True))


def _subjects(
    dataset: FineGrainedDataset, splits: Sequence[str | None], names: Sequence[str]
) -> tuple[Subject, ...]:
    """The pictures with what is known of them, still without cells."""
    assert dataset.transform is not None
    return tuple(
        Subject(
            name=sample.path.name if split is None else relative_path(sample.path, dataset.root),
            label=None if split is None else names[sample.label],
            split=split,
            crop=crop_of(sample, dataset.transform, _CROP),
            box=sample.box and tuple(Frame.of(sample, dataset.transform).box_in_crop(sample.box).tolist()),
            rings=rings_of(dataset, index, ALPHA),
            cells={},
        )
        for index, (sample, split) in enumerate(zip(dataset.samples, splits, strict=True))
    )
