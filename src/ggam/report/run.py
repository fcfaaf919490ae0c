"""The report of a run directory: `report/index.html`, and its gallery beside it."""

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ggam.data.records import FineGrainedDataset
from ggam.drawing.charts import Series, confusion_chart, line_chart
from ggam.drawing.pages import data_uri, percent, render_page
from ggam.evaluation.accuracy import EvalReport
from ggam.evaluation.estimates import CONTROLS
from ggam.evaluation.evaluate import check_fits
from ggam.evaluation.explanation_report import ExplanationReport
from ggam.evaluation.metrics import METRICS
from ggam.explanations.explanation import MAP_TITLES
from ggam.methods.base import FineGrainedModel
from ggam.report.cards import Card, Tile, by_answer, heat_tile, maps_of, picture_of, require_same
from ggam.report.gallery import LIMIT, Gallery, Seen, draw_gallery
from ggam.report.measures import KIND_TITLES, measures
from ggam.report.pairs import confused_pairs
from ggam.report.panels import default_maps
from ggam.runs.run import Run
from ggam.system.files import write_atomic

_CHARTS: Mapping[str, Mapping[str, str]] = {
    "Accuracy": {"training": "accuracy", "validation": "val_accuracy"},
    "Cross-entropy": {"training": "classification", "validation": "val_loss"},
}
"""The charts that every method has: title → the columns of the run's epochs by the name of their line."""
_NO_CURVE = {"epoch", "seconds", *(column for lines in _CHARTS.values() for column in lines.values())}
_PACKAGES = ("ggam", "torch", "torchvision", "timm", "lightning")


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
    report, values = _content(run, model, dataset, examples)
    values |= {"measured": explanations, "tables": [] if explanations is None else measures(explanations)}
    values |= {"metrics": METRICS, "kind_titles": KIND_TITLES, "controls": CONTROLS}
    gallery = Gallery.of(report)
    page = run.report_page

    def rendered(seen: Sequence[Seen]) -> str:
        return render_page("run.html", gallery=gallery, data=gallery.data(seen), **values)

    # What the drawing finds out is not known yet; it takes no more bytes than this.
    longest = len(rendered([Seen(100, 0)] * len(gallery.order)).encode())
    seen = draw_gallery(
        gallery, page.parent, model, dataset, limit=LIMIT - longest, workers=workers, on_batch=on_batch
    )
    write_atomic(page, rendered(seen))
    return page


def _content(
    run: Run, model: FineGrainedModel, dataset: FineGrainedDataset, examples: int
) -> tuple[EvalReport, dict[str, Any]]:
    """The selected evaluation, and what the page shows beside the gallery and the measures of heat maps."""
    results = run.read_results()
    reports = {name: EvalReport.read(run.evaluation(name)) for name in results.epochs}
    report = reports[results.selected]
    require_same(run.folder, report, dataset)
    history = [_numbers(row) for row in run.read_epochs()]
    wrong, right = by_answer(report)
    drawn = np.random.default_rng(0).permutation(len(right))[:examples]
    cards = {
        "wrong": [_card(model, dataset, report, index) for index in wrong[:examples]],
        "right": [_card(model, dataset, report, right[place]) for place in sorted(drawn)],
    }
    return report, {
        "title": f"{model.config.method} on {dataset.root.resolve().name}",
        "config": model.config,
        "results": results,
        "reports": reports,
        "report": report,
        "charts": _charts(history, results.epochs.get("best", {}).get("epoch")),
        "epochs": len(history),
        "seconds": sum(row.get("seconds", 0.0) for row in history),
        "pairs": confused_pairs(model, dataset, report),
        "matrix": confusion_chart(report.confusion, report.class_names),
        "attention": "spatial" in default_maps(model),
        "cards": cards,
        "counts": {"wrong": len(wrong), "right": len(right)},
        "settings": run.read_config() if run.config_file.is_file() else {},
        "versions": {"Python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
    }


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


def _card(model: FineGrainedModel, dataset: FineGrainedDataset, report: EvalReport, index: int) -> Card:
    """A picture that stands out."""
    prediction = report.predictions[index]
    name, said = report.class_names[prediction.label], report.class_names[prediction.predicted]
    picture = picture_of(dataset, index)
    tiles = [Tile(data_uri(picture), f"Test picture of {name}", Path(prediction.path).stem)]
    for kind, heat in maps_of(model, dataset, index).items():
        title = MAP_TITLES[kind]
        tiles.append(heat_tile(picture, heat, title, f"{title} map of this picture, for {said}"))
    sure = f"{percent(prediction.probability)} sure"
    if prediction.rank == 1:
        return Card(name, sure, "right", tiles)
    own = f"{name} got {percent(prediction.label_probability)}"
    return Card(f"{name} taken for {said}", f"{sure}; {own}", "wrong", tiles)
