"""The report of a run directory: `report/index.html`, and its gallery beside it."""

import csv
import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from ggam.data.records import FineGrainedDataset
from ggam.drawing.charts import Series, confusion_chart, line_chart
from ggam.drawing.pages import data_uri, percent, render_page
from ggam.evaluation.accuracy import EvalReport, Prediction
from ggam.evaluation.evaluate import check_fits, relative_path
from ggam.evaluation.explanation_report import ExplanationReport
from ggam.explanations.explanation import MAP_TITLES
from ggam.methods.base import FineGrainedModel
from ggam.report.cards import Card, Tile, heat_tile, maps_of, picture_of
from ggam.report.gallery import LIMIT, Gallery, Seen, draw_gallery
from ggam.report.measures import forgetting, measures
from ggam.report.pairs import confused_pairs
from ggam.system.files import write_atomic

REPORT_FILE = "report/index.html"
_CHARTS: tuple[tuple[str, bool, dict[str, str]], ...] = (
    ("Accuracy", True, {"training": "train_accuracy", "validation": "val_accuracy"}),
    ("Cross-entropy", False, {"training": "train_classification", "validation": "val_loss"}),
    ("Guidance loss, unweighted", False, {"training": "train_guidance"}),
    (
        "Entropy, 1 is uniform over the channels",
        False,
        {"attention S": "channel_entropy", "its Grad-CAM target": "target_entropy"},
    ),
    ("Learning rate", False, {"attention and classifier": "lr", "backbone": "backbone_lr"}),
)
"""Title, whether it is in percent, and the columns of metrics.csv by the name of their line."""
_PACKAGES = ("ggam", "torch", "torchvision", "timm", "lightning")
_LOADS = "This page and the folder beside it hold everything; nothing is loaded from elsewhere."


class ReportError(ValueError):
    """A run directory that cannot be reported."""


@dataclass(frozen=True)
class _AccuracyRow:
    name: str
    epoch: Any
    report: EvalReport
    selected: bool


def write_report(
    run: Path | str,
    model: FineGrainedModel,
    dataset: FineGrainedDataset,
    *,
    explanations: ExplanationReport | None = None,
    examples: int = 6,
    workers: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `report/` of a run: figures, confusions, heat maps, and a gallery of all test pictures.

    The page and its pictures take at most `ggam.report.gallery.LIMIT` bytes. It costs one pass over the
    pictures in float32, on the device that the model is on.

    Args:
        run: a run directory with `results.json` and `evaluation/`; `metrics.csv` and `config.yaml`
            are shown where they are there.
        model: the model of the selected evaluation, which is explained.
        dataset: the test split with its evaluation transform, as it was evaluated.
        explanations: what was measured of this model's heat maps, for the tables.
        examples: the most pictures that stand out, of right and of wrong answers.
        workers: processes that read pictures for the gallery; 0 reads them here.
        on_batch: called with the pictures of the gallery done and those in all.

    Returns:
        The page, `report/index.html`.

    Raises:
        ReportError: if `results.json` is missing or damaged, or the evaluation is of other pictures.
        EvaluationError: if the evaluation is missing, or the data set does not fit the model.
        DataError: if a picture cannot be read.
    """
    run = Path(run)
    check_fits(model, dataset)
    values, report = _values(run, model, dataset, examples)
    values["measures"] = [] if explanations is None else measures(explanations)
    values["forgetting"] = [] if explanations is None else forgetting(explanations)
    values["measured"] = explanations
    gallery = Gallery.of(report)
    page = run / REPORT_FILE

    def rendered(seen: Sequence[Seen]) -> str:
        return render_page("run.html", _LOADS, gallery=gallery, data=gallery.data(seen), **values)

    # What the drawing finds out is not known yet; it takes no more bytes than this.
    longest = len(rendered([Seen(100, 0)] * len(gallery.order)).encode())
    seen = draw_gallery(
        gallery, page.parent, model, dataset, limit=LIMIT - longest, workers=workers, on_batch=on_batch
    )
    write_atomic(page, rendered(seen))
    return page


def _values(
    run: Path, model: FineGrainedModel, dataset: FineGrainedDataset, examples: int
) -> tuple[dict[str, Any], EvalReport]:
    """What the page shows beside the gallery, and the selected evaluation."""
    results = _results(run)
    chosen = results["selected"]
    reports = {
        name: EvalReport.read(run / "evaluation" / name)
        for name in ("last", "best")
        if name == chosen or (run / "evaluation" / name).is_dir()
    }
    report = reports[chosen]
    _check_same(run, report, dataset)
    history = _history(run / "metrics.csv")
    best_epoch = results.get("best", {}).get("epoch")
    wrong, right = _standing_out(report, examples)
    maps = maps_of(model, dataset, sorted({*wrong, *right}))
    return {
        "title": f"{model.config.method} on {dataset.root.resolve().name}",
        "lead": _lead(model, report, history),
        "protocol": _sentence(results.get("protocol", "")),
        "accuracy": _accuracy_rows(results, reports),
        "calibration": _calibration(report),
        "charts": _charts(history, best_epoch),
        "best_epoch": best_epoch,
        "pairs": confused_pairs(model, dataset, report),
        "matrix": confusion_chart(report.confusion, report.class_names),
        "per_class": report.per_class,
        "attention": any("spatial" in found for found in maps.values()),
        "wrong": [_case_card(report, dataset, maps, index) for index in wrong],
        "right": [_case_card(report, dataset, maps, index) for index in right],
        "wrong_count": sum(p.rank > 1 for p in report.predictions),
        "right_count": sum(p.rank == 1 for p in report.predictions),
        "settings": _settings(run / "config.yaml"),
        "versions": [("Python", platform.python_version()), *((name, version(name)) for name in _PACKAGES)],
    }, report


def _results(run: Path) -> dict[str, Any]:
    path = run / "results.json"
    try:
        results = json.loads(path.read_text("utf-8"))
        if results["selected"] not in results or results["selected"] not in ("last", "best"):
            raise ValueError(f"selected is {results['selected']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(f"{path}: not the results of a finished training ({error})") from error
    return results


def _check_same(run: Path, report: EvalReport, dataset: FineGrainedDataset) -> None:
    names = [relative_path(sample.path, dataset.root) for sample in dataset.samples]
    if names != [prediction.path for prediction in report.predictions]:
        raise ReportError(
            f"{run}: was evaluated on {len(report.predictions)} pictures that are not the {len(names)} of "
            f"{dataset.root}; give the data set it was evaluated on, or evaluate it again"
        )


def _history(path: Path) -> list[dict[str, float]]:
    """The finite numbers of each epoch; empty where there is no such file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [_numbers(row) for row in csv.DictReader(file)]


def _numbers(row: Mapping[str, str | None]) -> dict[str, float]:
    numbers = {}
    for name, text in row.items():
        try:
            value = float(text or "nan")
        except ValueError:
            continue
        if math.isfinite(value):
            numbers[name] = value
    return numbers


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}." if text else ""


def _charts(history: Sequence[Mapping[str, float]], best_epoch: float | None) -> list[Markup]:
    charts = []
    for title, in_percent, columns in _CHARTS:
        series: dict[str, Series] = {
            name: [(row["epoch"], row[column]) for row in history if "epoch" in row and column in row]
            for name, column in columns.items()
        }
        if any(series.values()):
            charts.append(line_chart(series, label=title, percent=in_percent, marked=best_epoch))
    return charts


def _lead(model: FineGrainedModel, report: EvalReport, history: Sequence[Mapping[str, float]]) -> str:
    config = model.config
    text = (
        f"{config.backbone or 'a module of its author’s'} at {config.image_size} pixels names "
        f"{percent(report.top1)} of {len(report.predictions)} test pictures correctly, among "
        f"{len(report.class_names)} classes."
    )
    seconds = sum(row.get("seconds", 0.0) for row in history)
    if not seconds:
        return text
    spent = f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{max(seconds, 1):.0f} s"
    epochs = "1 epoch" if len(history) == 1 else f"{len(history)} epochs"
    return f"{text} Trained for {epochs} in {spent}."


def _accuracy_rows(results: Mapping[str, Any], reports: Mapping[str, EvalReport]) -> list[_AccuracyRow]:
    titles = {"last": "the last epoch", "best": "the best epoch on validation"}
    return [
        _AccuracyRow(
            titles[name], results.get(name, {}).get("epoch", "–"), report, name == results["selected"]
        )
        for name, report in reports.items()
    ]


def _calibration(report: EvalReport) -> str:
    """How far probability and accuracy lie apart, in words; nothing where it was not recorded."""
    if report.temperature is None or report.calibrated_ece is None:
        return ""
    apart = f"Expected calibration error: {percent(report.ece)}"
    if report.temperature == 1:
        return f"{apart} (15 bins; temperature 1)."
    return (
        f"{apart} as trained, {percent(report.calibrated_ece)} with the logits divided by the temperature "
        f"{report.temperature:.2f} that was fitted on the validation part (15 bins)."
    )


def _standing_out(report: EvalReport, examples: int) -> tuple[list[int], list[int]]:
    """Indices of the most confident mistakes, and of right answers drawn at random."""
    predictions = report.predictions
    wrong = [index for index, p in enumerate(predictions) if p.rank > 1]
    right = [index for index, p in enumerate(predictions) if p.rank == 1]
    wrong.sort(key=lambda index: -predictions[index].probability)
    drawn = np.random.default_rng(0).permutation(len(right))[:examples]
    return wrong[:examples], sorted(right[position] for position in drawn)


def _case_card(
    report: EvalReport,
    dataset: FineGrainedDataset,
    maps: Mapping[int, Mapping[str, np.ndarray]],
    index: int,
) -> Card:
    prediction = report.predictions[index]
    name, said = report.class_names[prediction.label], report.class_names[prediction.predicted]
    picture = picture_of(dataset, index)
    tiles = [Tile(data_uri(picture), f"Test picture of {name}", Path(prediction.path).stem)]
    for kind, heat in maps[index].items():
        title = MAP_TITLES[kind]
        tiles.append(heat_tile(picture, heat, title, f"{title} map of this picture, for {said}"))
    return Card(*_verdict(prediction, name, said), tuple(tiles))


def _verdict(prediction: Prediction, name: str, said: str) -> tuple[str, str, str]:
    """Heading, note and verdict of a case."""
    if prediction.rank == 1:
        return name, f"{percent(prediction.probability)} sure", "right"
    note = f"{percent(prediction.probability)} sure; {name} got {percent(prediction.label_probability)}"
    return f"{name} taken for {said}", note, "wrong"


def _settings(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        return []
    try:
        settings = yaml.safe_load(path.read_text("utf-8")) or {}
        return [(str(name), "–" if value is None else str(value)) for name, value in settings.items()]
    except (OSError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ReportError(f"{path}: expected a flat mapping of settings ({reason})") from error
