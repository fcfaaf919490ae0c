"""How commands and runs measure a model: a pass with a progress bar, written into a folder."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ggam.data.records import FineGrainedDataset
from ggam.evaluation.evaluate import evaluate
from ggam.evaluation.localization import localization_metrics
from ggam.methods.base import FineGrainedModel
from ggam.system.console import progress
from ggam.system.devices import Precision, default_device, resolve_precision


def evaluator(
    precision: Precision,
    workers: int,
    batch_size: int = 64,
    accelerator: str = "auto",
    *,
    localization: bool = False,
) -> Callable[[FineGrainedModel, FineGrainedDataset, Path], Mapping[str, float]]:
    """What measures a model, and where its heat lies if asked to, and writes the report into a folder."""

    def measure(model: FineGrainedModel, dataset: FineGrainedDataset, out: Path) -> Mapping[str, float]:
        device = default_device(accelerator)
        with progress("evaluating") as step:
            report = evaluate(
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
        return {**report.summary(), **localization_metrics(report.maps, dataset)}

    return measure
