"""Records of runs that never ran, with accuracies chosen by the test."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from ggam.studies.records import RunRecord


def _record(row: str, seed: int, metrics: Mapping[str, float]) -> RunRecord:
    return RunRecord(
        row=row,
        seed=seed,
        run=Path("runs") / f"{row}-seed{seed}",
        protocol="best epoch chosen on 10% of the training pictures, held out",
        metrics=metrics,
        training_seconds=60.0 + seed,
        epochs=10,
        pictures={"train": 90, "val": 10, "test": 50},
    )


@pytest.fixture
def measured() -> Callable[..., list[RunRecord]]:
    """Makes records of accuracies by row, one for each seed from 0 on, all with some more metrics."""

    def make(accuracies: Mapping[str, Sequence[float]], **metrics: float) -> list[RunRecord]:
        return [
            _record(row, seed, {"top1": accuracy, **metrics})
            for row, values in accuracies.items()
            for seed, accuracy in enumerate(values)
        ]

    return make
