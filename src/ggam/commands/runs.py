"""Trained models as the commands meet them: found in a run directory, measured, put into a table."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from rich.table import Table

from ggam.commands.console import progress
from ggam.data.records import FineGrainedDataset
from ggam.evaluation.evaluate import evaluate as measure
from ggam.evaluation.localization import localization_metrics
from ggam.methods.base import FineGrainedModel
from ggam.runs.model_folder import load_model
from ggam.system.devices import default_device
from ggam.training.recipe import Precision, resolve_precision
from ggam.training.run import CONFIG, RESULTS, RunConfig, RunError


def open_run(run: Path) -> tuple[FineGrainedModel, RunConfig | None]:
    """The model of a run directory with the run's configuration, or of a model folder without one.

    Raises:
        RunError: if there is no trained model.
    """
    if (run / "config.json").is_file():
        return load_model(run), None
    if not (run / "model").is_dir():
        what = "not a run directory" if run.is_dir() else "no such folder"
        if (run / CONFIG).is_file():
            what = "the run is not finished: continue it with ggam train --resume"
        raise RunError(f"{run}: holds no trained model ({what})")
    return load_model(run / "model"), RunConfig.read(run)


def evaluator(
    precision: Precision,
    workers: int,
    batch_size: int = 64,
    accelerator: str = "auto",
    *,
    localization: bool = False,
) -> Callable[[FineGrainedModel, FineGrainedDataset, Path], Mapping[str, float]]:
    """What measures a model, and where its heat lies if asked to, and writes the report into a folder."""

    def run(model: FineGrainedModel, dataset: FineGrainedDataset, out: Path) -> Mapping[str, float]:
        device = default_device(accelerator)
        with progress("evaluating") as step:
            report = measure(
                model,
                dataset,
                batch_size=batch_size,
                workers=workers,
                device=device,
                precision=resolve_precision(precision, device),
                maps=localization,
                on_batch=step,
            )
        replace(report, maps=None).write(out)
        if report.maps is None:
            return report.summary()
        return {**report.summary(), **localization_metrics(torch.from_numpy(report.maps), dataset)}

    return run


def crop(model: FineGrainedModel) -> str:
    """What of each picture the model was shown."""
    transform = model.config.transform()
    return (
        f"one centre crop of {transform.image_size} pixels, the shorter side resized to "
        f"{transform.resized_side}"
    )


def training_protocol(run: Path) -> str:
    """What the model that is measured was trained and chosen on (docs/protocol.md)."""
    try:
        results = json.loads((run / RESULTS).read_text("utf-8"))
        epoch = results[results["selected"]]["epoch"]
        return f"protocol: {results['protocol']}; epoch {epoch}, trained on {RunConfig.read(run).data}"
    except (OSError, KeyError, ValueError):
        return "protocol: unknown; only a finished run directory says what was trained and chosen on"


def results_table(results: Mapping[str, object]) -> Table:
    """A row for each model measured on the test pictures."""
    table = Table("", "top-1 %", "top-5 %", "per class %", "epoch")
    for name, row in results.items():
        if isinstance(row, Mapping) and "top1" in row:
            shares = (f"{100 * row[key]:.2f}" for key in ("top1", "top5", "macro"))
            chosen = " (chosen)" if results.get("selected") == name else ""
            table.add_row(f"{name}{chosen}", *shares, str(row.get("epoch", "")))
    return table
