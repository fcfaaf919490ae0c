"""What a study has measured so far: one record for each finished run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunRecord:
    """A finished run of a study, as its `results.json` tells it."""

    row: str
    """Name of the study's row."""
    seed: int
    run: Path
    """The run directory."""
    protocol: str
    """What the measured epoch was trained and chosen on, in words (docs/protocol.md)."""
    metrics: Mapping[str, float]
    """Of the chosen epoch on the test pictures: `top1`, `top5`, `macro`, `loss`, and, where parts or
    boxes are known, `on_object`, `on_part` and the like; shares from 0 to 1."""
    training_seconds: float
    epochs: int
    pictures: Mapping[str, int]
    """How many: `train`, `val`, `test`."""


@dataclass(frozen=True)
class Failure:
    """A run that did not finish, and why."""

    row: str
    seed: int
    reason: str
