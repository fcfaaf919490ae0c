"""Model cards: the `README.md` of a model folder, in the Hugging Face hub's format."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCardData
from PIL import Image

from ggam.data.records import FineGrainedDataset
from ggam.drawing.overlays import encoded, overlay
from ggam.drawing.pages import render_page
from ggam.evaluation.accuracy import EvalReport, Prediction
from ggam.evaluation.evaluate import check_fits
from ggam.explanations.explanation import explain
from ggam.methods.base import FineGrainedModel, ModelConfig
from ggam.report.cards import by_answer, picture_of, require_same
from ggam.runs.model_folder import CARD_FILE
from ggam.runs.run import Results, Run, RunError
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


@dataclass(frozen=True)
class Measured:
    """What a run tells of its model."""

    data: str
    """Name of the data set's folder."""
    recipe: Mapping[str, Any]
    """Without the places of files on the machine that it was trained on."""
    results: Results
    report: EvalReport
    """On the test pictures."""
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
        ReportError: if the pictures are not those that the run was evaluated on.
        RunError: if the run is not finished.
        EvaluationError: if its evaluation is missing or the pictures do not fit the model.
        DataError: if a picture cannot be read.
    """
    folder = run.model_folder
    if is_edited(folder):
        return False
    measured = measured_run(run)
    shown: list[int] = []
    if test is not None:
        check_fits(model, test)
        require_same(run.folder, measured.report, test)
        shown = example_indices(measured.report)
        write_atomic(folder / PICTURE_FILE, heat_map_picture(model, test, measured.report, shown))
    return write_card(folder, model.config, measured, [measured.report.predictions[index] for index in shown])


def write_card(
    folder: Path, config: ModelConfig, measured: Measured | None = None, cases: Sequence[Prediction] = ()
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


def render_card(
    config: ModelConfig, measured: Measured | None = None, cases: Sequence[Prediction] = ()
) -> str:
    """The text of a card: the hub's YAML header and Markdown, see `write_card`."""
    report = measured.report if measured else None
    scores = [] if report is None else [score for score in report.per_class if score.accuracy is not None]
    scores.sort(key=lambda score: score.accuracy or 0)
    half = len(scores) // 2
    return render_page(
        "model_card.md",
        header=_header(config, measured),
        config=config,
        measured=measured,
        report=report,
        cases=cases,
        picture=PICTURE_FILE,
        placeholder=PLACEHOLDER,
        weakest=scores[: len(scores) - half][:_EXTREMES],
        strongest=scores[::-1][:half][:_EXTREMES],
        confusions=report.most_confused(_PAIRS) if report else [],
        recipe=_yaml(measured.recipe) if measured else "",
    )


def measured_run(run: Run) -> Measured:
    """What a finished run tells of its model, and the runs beside it that differ in the seed only.

    Raises:
        RunError: if it is no run directory, or is not finished.
        EvaluationError: if its evaluation is missing or damaged.
    """
    config, results = run.read_config(), run.read_results()
    report = EvalReport.read(run.evaluation(results.selected))
    seeds = _over_seeds(run, config, report.top1)
    return Measured(Path(config["data"]).name, _portable(config), results, report, seeds)


def example_indices(report: EvalReport, right: int = 3) -> list[int]:
    """Test pictures to show: right ones, evenly spread over the list, and the most confident mistake."""
    misses, hits = by_answer(report)
    chosen = [hits[(2 * place + 1) * len(hits) // (2 * right)] for place in range(right)] if hits else []
    return list(dict.fromkeys(chosen + misses[:1]))


def heat_map_picture(
    model: FineGrainedModel, dataset: FineGrainedDataset, report: EvalReport, indices: Sequence[int]
) -> bytes:
    """Pictures in a row, and below each its Grad-CAM map for the class that was predicted, as a JPEG.

    Args:
        model: is explained.
        dataset: with its evaluation transform.
        report: its evaluation.
        indices: which pictures.

    Raises:
        DataError: if a picture cannot be read.
    """
    step = _SIDE + _GAP
    sheet = Image.new("RGB", (len(indices) * step - _GAP, 2 * step - _GAP), "white")
    for column, index in enumerate(indices):
        predicted = torch.tensor([report.predictions[index].predicted])
        heat = explain(model, dataset[index][0][None], predicted).maps[0]
        crop = picture_of(dataset, index, _SIDE)
        sheet.paste(crop, (column * step, 0))
        sheet.paste(overlay(crop, heat), (column * step, step))
    return encoded(sheet, "JPEG", quality=88, optimize=True)


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


def _yaml(recipe: Mapping[str, Any]) -> str:
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
