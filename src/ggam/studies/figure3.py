"""Figure 3: what the eight networks of Table 3 look at in the same pictures.

From the folder of a `table3` study to what is drawn: the networks of one seed, a few pictures, and of
each pair the predicted class and the heat map. `figure3_drawing` makes the figure of it, and
`figure3_outputs` the files.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from ggam.data.layouts.folder import EXTENSIONS
from ggam.data.layouts.registry import load_dataset
from ggam.data.records import DataError, FineGrainedDataset, Sample, readable_names
from ggam.evaluation.accuracy import EvalReport
from ggam.evaluation.evaluate import check_fits, relative_path
from ggam.evaluation.targets import Targets
from ggam.explanations.explanation import available_maps, explain, map_kinds
from ggam.methods.base import FineGrainedModel
from ggam.report.panels import crop_of
from ggam.runs.model_folder import load_model
from ggam.studies.definition import PLAIN
from ggam.studies.figure3_networks import Figure3Error, Networks
from ggam.system.devices import default_device
from ggam.training.run import RESULTS, RunConfig

MapKind = Literal["gradcam", "gradcam-features", "spatial", "channel"]
"""Those of `ggam.explanations.explanation.MAPS`."""
MOST_PICTURES = 12
CROP = 448
"""Height and width of the crops kept for drawing, in pixels."""


class Cell(NamedTuple):
    """What one network says of one picture, and why."""

    predicted: str
    probability: float
    """Softmax of the logits, 0 to 1."""
    right: bool | None
    """None where the true class is not known."""
    heat: np.ndarray | None
    """(H, W) float32, not normalised; None where the network has no such map."""


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
    cells: Mapping[str, Cell]
    """By row of Table 3."""

    @property
    def tally(self) -> str:
        """How many of the networks are right, in words; empty if the true class is not known."""
        if self.label is None:
            return ""
        return f"{sum(bool(cell.right) for cell in self.cells.values())} of {len(self.cells)} right"


@dataclass(frozen=True)
class Figure3:
    """All that is drawn."""

    networks: Networks
    backbone: str
    image_size: int
    kind: MapKind
    choice: str
    """How the pictures came to be in the figure, in words."""
    class_names: tuple[str, ...]
    """As people write them."""
    subjects: tuple[Subject, ...]


def gather(
    networks: Networks,
    images: Sequence[Path] = (),
    *,
    pictures: int = 4,
    kind: MapKind = "gradcam",
    on_network: Callable[[int, int], None] | None = None,
) -> Figure3:
    """Choose the pictures, and ask every network about them.

    Args:
        networks: of one seed.
        images: picture files and folders of them; none takes test pictures that the networks disagree on.
        pictures: how many to choose, if there are no `images`.
        kind: of the heat maps; networks that have no such map have empty cells.
        on_network: called after each network with the networks done and the networks in all.

    Raises:
        Figure3Error: for more pictures than `MOST_PICTURES`, or none.
        DataError: if a picture cannot be read.
        ValueError: if a run is damaged, or the data set is another one by now.
    """
    config = RunConfig.read(networks.runs[PLAIN])
    reference = load_model(networks.runs[PLAIN] / "model")
    if images:
        dataset, splits = _given(images, config, reference)
        choice = "The pictures were chosen by hand."
    else:
        dataset, choice = _chosen(networks, config, pictures)
        splits = ["test"] * len(dataset)
    dataset = dataset.with_transform(reference.config.transform())
    class_names = readable_names(reference.config.class_names)
    cells: list[dict[str, Cell]] = [{} for _ in splits]
    for done, (row, run) in enumerate(networks.runs.items(), 1):
        answers = _ask(load_model(run / "model"), dataset, splits, class_names, kind)
        for found, answer in zip(cells, answers, strict=True):
            found[row] = answer
        if on_network is not None:
            on_network(done, len(networks.runs))
    subjects = _subjects(dataset, splits, class_names, cells)
    model = config.recipe.model
    return Figure3(networks, model.backbone, model.image_size, kind, choice, class_names, subjects)


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


def _chosen(networks: Networks, config: RunConfig, pictures: int) -> tuple[FineGrainedDataset, str]:
    """Test pictures that the networks disagree on, and how they were chosen, in words."""
    _require_few(pictures)
    reports = [_report(run) for run in networks.runs.values()]
    test = _part(config, "test")
    names = [relative_path(sample.path, test.root) for sample in test.samples]
    if any([p.path for p in report.predictions] != names for report in reports):
        raise DataError(
            f"{config.data}: its test pictures are others than those that the networks of {networks.study} "
            "were measured on; put them back, or name pictures"
        )
    indices = disagreements(reports, pictures)
    everywhere = np.mean([report.top1 for report in reports])
    here = np.mean([report.predictions[index].rank == 1 for report in reports for index in indices])
    choice = (
        f"The pictures were chosen by rule among all {len(test)} test pictures: of different classes, those "
        "of which nearest to half of the eight networks name the class right, and among equals those whose "
        f"true class gets the lowest probability. So they are not typical: the networks are right in "
        f"{here:.0%} of these cases, and in {everywhere:.0%} over all test pictures."
    )
    return test.subset(indices), choice


def _report(run: Path) -> EvalReport:
    """How the chosen epoch of a run did on the test pictures."""
    results = json.loads((run / RESULTS).read_text("utf-8"))
    return EvalReport.read(run / "evaluation" / results["selected"])


def _part(config: RunConfig, split: str) -> FineGrainedDataset:
    recipe = config.recipe
    return load_dataset(config.data, split=split, layout=recipe.data.layout, seed=recipe.machine.seed)


def _given(
    images: Sequence[Path], config: RunConfig, model: FineGrainedModel
) -> tuple[FineGrainedDataset, list[str | None]]:
    """The given pictures with what the study's data set knows of them, and of which split each is."""
    paths: dict[Path, None] = {}
    for image in images:
        inside = sorted(file for file in image.rglob("*") if file.suffix.lower() in EXTENSIONS)
        paths |= dict.fromkeys(inside or [image])
    _require_few(len(paths))
    try:
        parts = [_part(config, split) for split in ("train", "test")]
    except DataError:  # the pictures are here, whatever has become of the data
        parts = []
    known = {sample.path.resolve(): (sample, part.split) for part in parts for sample in part.samples}
    found = [known.get(path.resolve(), (Sample(path, 0), None)) for path in paths]
    dataset = FineGrainedDataset(
        [sample for sample, _ in found],
        parts[0].class_names if parts else model.config.class_names,
        root=parts[0].root if parts else Path(),
        layout="files",
        split="test",
        part_names=parts[0].part_names if parts else (),
        discriminative=parts[0].discriminative if parts else None,
    )
    return dataset, [split for _, split in found]


def _require_few(pictures: int) -> None:
    if not 1 <= pictures <= MOST_PICTURES:
        raise Figure3Error(f"{pictures} pictures: expected 1 to {MOST_PICTURES} in one figure")


def _ask(
    model: FineGrainedModel,
    dataset: FineGrainedDataset,
    splits: Sequence[str | None],
    class_names: Sequence[str],
    kind: MapKind,
) -> list[Cell]:
    """One network's answers for all pictures."""
    check_fits(model, dataset)
    images = torch.stack([dataset[index][0] for index in range(len(dataset))])
    explanation = explain(model.to(default_device()), images)
    sure, best = explanation.logits.float().softmax(dim=1).max(dim=1)
    maps: list[np.ndarray] | list[None] = [None] * len(dataset)
    if kind in available_maps(model):
        maps = list(map_kinds(model, explanation, [kind])[kind].float().cpu().numpy())
    return [
        Cell(class_names[int(index)], probability, None if split is None else index == label, heat)
        for index, probability, label, split, heat in zip(
            best.tolist(), sure.tolist(), dataset.labels, splits, maps, strict=True
        )
    ]


def _subjects(
    dataset: FineGrainedDataset,
    splits: Sequence[str | None],
    class_names: Sequence[str],
    cells: Sequence[Mapping[str, Cell]],
) -> tuple[Subject, ...]:
    """The pictures with what is known of them."""
    assert dataset.transform is not None
    targets = Targets.of(dataset, range(len(dataset)))
    subjects = []
    for row, (sample, split) in enumerate(zip(dataset.samples, splits, strict=True)):
        box = targets.boxes[row]
        telling = targets.parts[row][targets.telling[row]]
        telling = telling[telling.isfinite().all(dim=1)]
        radius = float(targets.radii[row])
        subjects.append(
            Subject(
                name=sample.path.name if split is None else relative_path(sample.path, dataset.root),
                label=None if split is None else class_names[sample.label],
                split=split,
                crop=crop_of(sample, dataset.transform, CROP),
                box=tuple(box.tolist()) if box.isfinite().all() else None,
                rings=tuple((x, y, radius) for x, y in telling.tolist()) if radius > 0 else (),
                cells=cells[row],
            )
        )
    return tuple(subjects)
