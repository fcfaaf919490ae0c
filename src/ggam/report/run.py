"""The report of a run directory: `report/index.html`, and its gallery beside it."""

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
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
from ggam.runs.run import Results, Run
from ggam.system.files import write_atomic

_CHARTS: Mapping[str, Mapping[str, str]] = {
    "Accuracy": {"training": "accuracy", "validation": "val_accuracy"},
    "Cross-entropy": {"training": "classification", "validation": "val_loss"},
}
"""The charts that every method has: title → the columns of the run's epochs by the name of their line."""
_NO_CURVE = {"epoch", "seconds", *(column for lines in _CHARTS.values() for column in lines.values())}
_PACKAGES = ("ggam", "torch", "torchvision", "timm", "lightning")
_LOADS = "This page and the folder beside it hold everything; nothing is loaded from elsewhere."


class ReportError(ValueError):
    """A run that was evaluated on other pictures."""


@dataclass(frozen=True)
class _AccuracyRow:
    name: str
    epoch: float
    report: EvalReport
    selected: bool


def write_report(
    run: Run,
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
        run: is finished; its recipe and its epochs are shown where they are there.
        model: the model of the selected evaluation, which is explained.
        dataset: the test split with its evaluation transform, as it was evaluated.
        explanations: what was measured of this model's heat maps, for the tables.
        examples: the most pictures that stand out, of right and of wrong answers.
        workers: processes that read pictures for the gallery; 0 reads them here.
        on_batch: called with the pictures of the gallery done and those in all.

    Returns:
        The page, `report/index.html`.

    Raises:
        RunError: if the run is not finished, or damaged.
        ReportError: if the evaluation is of other pictures.
        EvaluationError: if the evaluation is missing, or the data set does not fit the model.
        DataError: if a picture cannot be read.
    """
    check_fits(model, dataset)
    values, report = _values(run, model, dataset, examples)
    values["measures"] = [] if explanations is None else measures(explanations)
    values["forgetting"] = [] if explanations is None else forgetting(explanations)
    values["measured"] = explanations
    gallery = Gallery.of(report)
    page = run.report_page

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
    run: Run, model: FineGrainedModel, dataset: FineGrainedDataset, examples: int
) -> tuple[dict[str, Any], EvalReport]:
    """What the page shows beside the gallery, and the selected evaluation."""
    results = run.read_results()
    reports = {name: EvalReport.read(run.evaluation(name)) for name in results.epochs}
    report = reports[results.selected]
    _check_same(run, report, dataset)
    history = [_numbers(row) for row in run.read_epochs()]
    best_epoch = results.epochs.get("best", {}).get("epoch")
    wrong, right = _standing_out(report, examples)
    maps = maps_of(model, dataset, sorted({*wrong, *right}))
    return {
        "title": f"{model.config.method} on {dataset.root.resolve().name}",
        "lead": _lead(model, report, history),
        "protocol": _sentence(results.protocol),
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
        "settings": _settings(run.read_config() if run.config_file.is_file() else {}),
        "versions": [("Python", platform.python_version()), *((name, version(name)) for name in _PACKAGES)],
    }, report


def _check_same(run: Run, report: EvalReport, dataset: FineGrainedDataset) -> None:
    names = [relative_path(sample.path, dataset.root) for sample in dataset.samples]
    if names != [prediction.path for prediction in report.predictions]:
        raise ReportError(
            f"{run.folder}: was evaluated on {len(report.predictions)} pictures that are not the "
            f"{len(names)} of {dataset.root}; give the data set it was evaluated on, or evaluate it again"
        )


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    """What is a finite number in the row of an epoch."""
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
    """A chart of each group of columns; those of a method are grouped by the last word of their names."""
    groups: dict[str, dict[str, str]] = {title: dict(lines) for title, lines in _CHARTS.items()}
    for column in dict.fromkeys(name for row in history for name in row):
        if column not in _NO_CURVE:
            *first, last = column.split("_")
            title = "Learning rate" if last == "lr" else last.capitalize()
            groups.setdefault(title, {})[" ".join(first) or column] = column
    charts = []
    for title, columns in groups.items():
        series: dict[str, Series] = {
            name: [(row["epoch"], row[column]) for row in history if "epoch" in row and column in row]
            for name, column in columns.items()
        }
        if any(series.values()):
            charts.append(line_chart(series, label=title, percent=title == "Accuracy", marked=best_epoch))
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


def _accuracy_rows(results: Results, reports: Mapping[str, EvalReport]) -> list[_AccuracyRow]:
    titles = {"last": "the last epoch", "best": "the best epoch on validation"}
    return [
        _AccuracyRow(titles[name], results.epochs[name]["epoch"], report, name == results.selected)
        for name, report in reports.items()
    ]


def _calibration(report: EvalReport) -> str:
    """How far probability and accuracy lie apart, in words."""
    apart = f"Expected calibration error: {percent(report.ece)}"
    if report.temperature == 1:
        return f"{apart} (15 bins; not calibrated: temperature 1)."
    return (
        f"{apart}, with the logits divided by the temperature {report.temperature:.2f} that was fitted on "
        f"the validation part; {percent(report.uncalibrated_ece)} without (15 bins)."
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


def _settings(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A row for each setting; those of a section are named after it."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _settings(value, f"{name}.")
        else:
            rows.append((f"{prefix}{name}", "–" if value is None else str(value)))
    return rows
