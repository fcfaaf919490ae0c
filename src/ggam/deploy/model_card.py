"""Model cards: the `README.md` of a model folder, in the Hugging Face hub's format."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from ggam._version import __version__
from ggam.data.records import FineGrainedDataset
from ggam.drawing.overlays import overlay
from ggam.drawing.pages import interval, percent
from ggam.evaluation.accuracy import ClassScore, EvalReport
from ggam.evaluation.evaluate import check_fits, relative_path
from ggam.explanations.explanation import explain
from ggam.methods.base import FineGrainedModel, ModelConfig
from ggam.report.panels import crop_of
from ggam.runs.model_folder import CARD_FILE
from ggam.runs.run import Run, RunError
from ggam.studies.statistics import Summary, summarize
from ggam.system.files import write_atomic

PICTURE_FILE = "heat-maps.jpg"
PLACEHOLDER = "user/name"
"""Stands in the card for the model's id on the hub, which is known once it is there."""

_SIDE = 224
_GAP = 8
_EXTREMES = 5
_PAIRS = 5
_MARKER = re.compile(r"\n<!-- written by ggam, [0-9a-f]{64} -->\n\Z")


class CardError(ValueError):
    """A model card that cannot be written, because what it would say is not known."""


@dataclass(frozen=True)
class Case:
    """A test picture that the card shows."""

    label: str
    predicted: str
    probability: float
    """Of the predicted class."""

    @property
    def words(self) -> str:
        """What the picture shows, and what the model says."""
        said = self.label if self.label == self.predicted else f"{self.label}, taken for {self.predicted}"
        return f"{said} ({percent(self.probability)} sure)"


@dataclass(frozen=True)
class Measured:
    """What a run tells of its model."""

    data: str
    """Name of the data set's folder."""
    recipe: Mapping[str, Any]
    """Without the places of files on the machine that it was trained on."""
    protocol: str
    epoch: float
    pictures: Mapping[str, int]
    """How many: `train`, `val`, `test`."""
    report: EvalReport
    seeds: Summary | None
    """Top-1 accuracy over the runs of the same recipe with other seeds; None where there are none."""


def write_run_card(run: Run, model: FineGrainedModel, test: FineGrainedDataset | None) -> bool:
    """Write the card of the model in a run directory, and the picture with its heat maps.

    Args:
        run: is finished.
        model: the model in it.
        test: the test pictures that the run was evaluated on, with their evaluation transform; None
            writes a card without pictures.

    Returns:
        Whether it was written: not if somebody has edited the card that is there.

    Raises:
        CardError: if the pictures are not those that the run was evaluated on.
        RunError: if the run is not finished.
        EvaluationError: if its evaluation is missing or the pictures do not fit the model.
        DataError: if a picture cannot be read.
    """
    folder = run.model_folder
    if is_edited(folder):
        return False
    measured = measured_run(run)
    if test is None:
        return write_card(folder, model.config, measured)
    check_fits(model, test)
    report = measured.report
    names = [relative_path(sample.path, test.root) for sample in test.samples]
    if names != [prediction.path for prediction in report.predictions]:
        raise CardError(
            f"{run.folder}: was not evaluated on the test pictures of {test.root}; evaluate it again"
        )
    shown = example_indices(report)
    classes = [report.predictions[index].predicted for index in shown]
    write_atomic(folder / PICTURE_FILE, heat_map_picture(model, test, shown, classes))
    return write_card(folder, model.config, measured, cases_of(report, shown))


def write_card(
    folder: Path, config: ModelConfig, measured: Measured | None = None, cases: Sequence[Case] = ()
) -> bool:
    """Write the card of a model folder, unless somebody has edited the one that is there.

    Args:
        folder: the model folder.
        config: of the model.
        measured: what is known of its training and its accuracy.
        cases: what `PICTURE_FILE` in the folder shows; if empty, one from an earlier card is removed.

    Returns:
        Whether it was written.

    Raises:
        OSError: if it cannot be written.
    """
    if is_edited(folder):
        return False
    if not cases:
        (folder / PICTURE_FILE).unlink(missing_ok=True)
    text = render_card(config, measured, cases)
    digest = sha256(text.encode()).hexdigest()
    write_atomic(folder / CARD_FILE, f"{text}\n<!-- written by ggam, {digest} -->\n")
    return True


def is_edited(folder: Path) -> bool:
    """Whether the folder holds a card that is not as `write_card` left it.

    The last line of a written card is a comment with the sha256 of all before it.
    """
    try:
        text = (folder / CARD_FILE).read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
    except FileNotFoundError:
        return False
    marker = _MARKER.search(text)
    return marker is None or sha256(text[: marker.start()].encode()).hexdigest() not in marker.group()


def render_card(config: ModelConfig, measured: Measured | None = None, cases: Sequence[Case] = ()) -> str:
    """The text of a card: the hub's YAML header and Markdown, see `write_card`."""
    report = measured.report if measured else None
    return (
        _environment()
        .get_template("model_card.md")
        .render(
            header=_header(config, measured),
            config=config,
            measured=measured,
            report=report,
            cases=cases,
            mistaken=any(case.label != case.predicted for case in cases),
            picture=PICTURE_FILE,
            placeholder=PLACEHOLDER,
            version=__version__,
            weakest=_weakest(report) if report else [],
            strongest=_strongest(report) if report else [],
            confusions=report.most_confused(_PAIRS) if report else [],
            recipe=_recipe_text(measured.recipe) if measured else "",
            resized=config.transform().resized_side,
        )
    )


def measured_run(run: Run) -> Measured:
    """What a finished run tells of its model, and the runs beside it that differ in the seed only.

    Raises:
        RunError: if it is no run directory, or is not finished.
        EvaluationError: if its evaluation is missing or damaged.
    """
    config, results = run.read_config(), run.read_results()
    report = EvalReport.read(run.evaluation(results.selected))
    return Measured(
        data=Path(config["data"]).name,
        recipe=_portable(config),
        protocol=results.protocol,
        epoch=results.chosen["epoch"],
        pictures=results.pictures,
        report=report,
        seeds=_over_seeds(run, config, report.top1),
    )


def example_indices(report: EvalReport, right: int = 3) -> list[int]:
    """Test pictures to show: right ones, evenly spread over the list, and the most confident mistake."""
    hits = [index for index, p in enumerate(report.predictions) if p.rank == 1]
    chosen = [hits[(2 * place + 1) * len(hits) // (2 * right)] for place in range(right)] if hits else []
    misses = [index for index, p in enumerate(report.predictions) if p.rank > 1]
    if misses:
        chosen.append(max(misses, key=lambda index: report.predictions[index].probability))
    return list(dict.fromkeys(chosen))


def cases_of(report: EvalReport, indices: Sequence[int]) -> list[Case]:
    """What the pictures of `heat_map_picture` show."""
    chosen = [report.predictions[index] for index in indices]
    names = report.class_names
    return [Case(names[p.label], names[p.predicted], p.probability) for p in chosen]


def heat_map_picture(
    model: FineGrainedModel, dataset: FineGrainedDataset, indices: Sequence[int], classes: Sequence[int]
) -> bytes:
    """Pictures in a row, and below each its Grad-CAM map for a class, as a JPEG.

    Args:
        model: is explained.
        dataset: with its evaluation transform.
        indices: which pictures.
        classes: the class to explain of each.

    Raises:
        DataError: if a picture cannot be read.
    """
    assert dataset.transform is not None
    step = _SIDE + _GAP
    sheet = Image.new("RGB", (len(indices) * step - _GAP, 2 * step - _GAP), "white")
    for column, (index, predicted) in enumerate(zip(indices, classes, strict=True)):
        heat = explain(model, dataset[index][0].unsqueeze(0), torch.tensor([predicted])).maps[0]
        crop = crop_of(dataset.samples[index], dataset.transform, _SIDE)
        sheet.paste(crop, (column * step, 0))
        sheet.paste(overlay(crop, heat), (column * step, step))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=88, optimize=True)
    return buffer.getvalue()


def _header(config: ModelConfig, measured: Measured | None) -> str:
    """The YAML that the hub reads, without a licence: that is for the author to say."""
    backbone = [] if config.backbone is None else [config.backbone.rpartition("/")[2]]
    data = ModelCardData(
        library_name="ggam",
        pipeline_tag="image-classification",
        tags=["image-classification", "fine-grained", "grad-cam", config.method, *backbone],
        metrics=["accuracy"] if measured else None,
        model_name=f"{config.method} on {measured.data}" if measured else None,
        eval_results=_eval_results(measured) if measured else None,
    )
    return data.to_yaml().strip()


def _eval_results(measured: Measured) -> list[EvalResult]:
    report = measured.report
    kind = re.sub(r"[^a-z0-9]+", "-", measured.data.casefold()).strip("-") or "pictures"
    shares = [("Accuracy", report.top1), ("Mean accuracy of the classes", report.macro)]
    if len(report.class_names) > 5:
        shares.insert(1, ("Top-5 accuracy", report.top5))
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=kind,
            dataset_name=measured.data,
            dataset_split="test",
            metric_type="accuracy",
            metric_name=name,
            metric_value=round(share, 4),
        )
        for name, share in shares
    ]


def _portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's recipe without what says where on a machine something lay, and how that machine was used."""
    local = {"data", "version", "cache", "workers"}
    values = {key: value for key, value in config.items() if key not in local and value is not None}
    return values | ({"weights": Path(values["weights"]).name} if "weights" in values else {})


def _recipe_text(recipe: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True).strip()


def _over_seeds(run: Run, config: Mapping[str, Any], top1: float) -> Summary | None:
    """Top-1 accuracy of this run and of those beside it with the same recipe and other seeds."""
    found = {config["seed"]: top1}
    for folder in sorted(run.folder.resolve().parent.iterdir()):
        try:
            other, results = Run(folder).read_config(), Run(folder).read_results()
        except RunError:
            continue  # not a finished run; says nothing
        if _but_seed(other) == _but_seed(config):
            found.setdefault(other["seed"], results.chosen["top1"])
    return summarize(list(found.values())) if len(found) > 1 else None


def _but_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    return _portable(config) | {"data": config["data"], "seed": None}


def _ordered(report: EvalReport) -> list[ClassScore]:
    """The classes that have pictures, the least recognised first."""
    present = [score for score in report.per_class if score.accuracy is not None]
    return sorted(present, key=lambda score: score.accuracy or 0)


def _weakest(report: EvalReport) -> list[ClassScore]:
    scores = _ordered(report)
    return scores[: min(_EXTREMES, (len(scores) + 1) // 2)]


def _strongest(report: EvalReport) -> list[ClassScore]:
    scores = _ordered(report)
    return scores[len(scores) - min(_EXTREMES, len(scores) // 2) :][::-1]


def _plain(text: object) -> str:
    """Text that Markdown, and the HTML in it, leave as it is, in a table too."""
    return re.sub(r"([\\`*_{}\[\]<>|#&~])", r"\\\1", " ".join(str(text).split()))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ggam.deploy"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "interval": interval, "plain": _plain}
    return environment
