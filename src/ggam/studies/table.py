"""The table of a study: for each row its measures over the seeds, its tests, its costs and its failures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from ggam.studies.costs import Cost
from ggam.studies.definition import PLAIN, Row, Study
from ggam.studies.records import Failure, RunRecord
from ggam.studies.statistics import PairedTest, Summary, holm, paired_test, summarize

SHOWN = ("top1", "top5", "macro", "loss", "on_object", "on_part", "energy", "part_energy")
"""Of `METRICS`, those that tables show; whatever else was measured is in `runs.csv` and `table.json`."""


@dataclass(frozen=True)
class RowResult:
    """What was measured of one row; of one that was not run there are neither records nor summaries."""

    row: Row
    records: tuple[RunRecord, ...]
    """Finished runs, in the order of their seeds."""
    failures: tuple[Failure, ...]
    metrics: Mapping[str, Summary]
    """By measure."""
    comparisons: Mapping[str, Mapping[str, PairedTest]]
    """By measure and the reference's name, of the references that share a seed."""
    cost: Cost | None
    plain_cost: Cost | None
    """Of the plain network on the same backbone."""

    @property
    def epoch_seconds(self) -> float | None:
        """Mean over the runs, as they ran: on machines that may have done other things as well."""
        return fmean(r.training_seconds / r.epochs for r in self.records) if self.records else None

    def cost_ratio(self, name: str) -> float | None:
        """A field of `Cost` over the plain network's."""
        if self.cost is None or self.plain_cost is None:
            return None
        return getattr(self.cost, name) / getattr(self.plain_cost, name)


@dataclass(frozen=True)
class StudyTable:
    """All rows of a study, measured or not."""

    study: Study
    rows: tuple[RowResult, ...]
    metrics: tuple[str, ...]
    """Those of `SHOWN` that every finished run has, accuracy first; empty if none is finished."""
    controls: Mapping[str, float]
    """By measure: what always pointing at the middle of the picture reaches."""

    @property
    def records(self) -> list[RunRecord]:
        """All finished runs, row by row."""
        return [record for row in self.rows for record in row.records]

    @property
    def failures(self) -> list[Failure]:
        """All runs that failed, row by row."""
        return [failure for row in self.rows for failure in row.failures]

    @property
    def families(self) -> list[str]:
        """What rows are held against, in the order of their appearance."""
        references = (self.study.row(name) for row in self.study.rows for name in row.references)
        return list(dict.fromkeys(map(family_of, references)))

    def result(self, name: str) -> RowResult:
        """What was measured of the row of a name."""
        return next(result for result in self.rows if result.row.name == name)

    def compared(self, metric: str, family: str) -> list[tuple[RowResult, PairedTest]]:
        """The rows that are tested against a family of references, with their test."""
        return [
            (result, test)
            for result in self.rows
            for reference, test in result.comparisons.get(metric, {}).items()
            if family_of(self.study.row(reference)) == family
        ]


def is_plain(row: Row) -> bool:
    """Whether a row is a network without any of the methods."""
    return row.options.get("method") == PLAIN


def family_of(reference: Row) -> str:
    """What a reference stands for, as a noun: rows of a study that share it are corrected together."""
    if is_plain(reference):
        return "the plain network"
    if reference.options.get("ggam", {}).get("guidance") is False:
        return "the same attention without guidance"
    return f"the {reference.label}"


def build_table(
    study: Study,
    records: Sequence[RunRecord],
    failures: Sequence[Failure] = (),
    costs: Mapping[str, Cost] | None = None,
) -> StudyTable:
    """Gather what has been measured, be the study finished or not.

    Args:
        study: its rows, in order.
        records: finished runs, at most one for each row and seed.
        failures: runs that broke.
        costs: by the row's name, for all rows or some.

    Raises:
        ValueError: for a record of an unknown row, or two of the same row and seed.
    """
    runs = _by_row(study, records)
    metrics = _common_metrics(records)
    values = {
        key: {name: {r.seed: r.metrics[key] for r in own} for name, own in runs.items()} for key in metrics
    }
    tests = {key: _tests(study, values[key]) for key in metrics}
    known = costs or {}
    rows = tuple(
        RowResult(
            row,
            runs[row.name],
            tuple(failure for failure in failures if failure.row == row.name),
            {key: summarize(list(values[key][row.name].values())) for key in metrics if runs[row.name]},
            {key: tests[key].get(row.name, {}) for key in metrics},
            known.get(row.name),
            next((known.get(r.name) for r in (row, *map(study.row, row.references)) if is_plain(r)), None),
        )
        for row in study.rows
    )
    controls = {
        key: fmean(record.metrics[f"centre_{key}"] for record in records)
        for key in metrics
        if all(f"centre_{key}" in record.metrics for record in records)
    }
    return StudyTable(study, rows, metrics, controls)


def _by_row(study: Study, records: Sequence[RunRecord]) -> dict[str, tuple[RunRecord, ...]]:
    """The records of each row of the study, in the order of their seeds."""
    runs: dict[str, dict[int, RunRecord]] = {row.name: {} for row in study.rows}
    for record in sorted(records, key=lambda record: record.seed):
        if record.row not in runs:
            raise ValueError(
                f"{record.run}: a run of row {record.row!r}, but {study.name} has {', '.join(runs)}"
            )
        if record.seed in runs[record.row]:
            raise ValueError(f"{record.run}: a second run of row {record.row!r} with seed {record.seed}")
        runs[record.row][record.seed] = record
    return {name: tuple(own.values()) for name, own in runs.items()}


def _common_metrics(records: Sequence[RunRecord]) -> tuple[str, ...]:
    """The measures that all runs have; the mean over classes only where it is not the accuracy itself."""
    common = [key for key in SHOWN if records and all(key in record.metrics for record in records)]
    if "macro" in common and all(math.isclose(r.metrics["macro"], r.metrics["top1"]) for r in records):
        common.remove("macro")
    return tuple(common)


def _tests(study: Study, values: Mapping[str, Mapping[int, float]]) -> dict[str, dict[str, PairedTest]]:
    """Every row against its references, corrected over the rows of each family; values by row and seed."""
    families: dict[str, list[tuple[str, str, PairedTest]]] = {}
    for row in study.rows:
        for reference in row.references:
            test = paired_test(values[row.name], values[reference])
            if test is not None:
                families.setdefault(family_of(study.row(reference)), []).append((row.name, reference, test))
    tests: dict[str, dict[str, PairedTest]] = {}
    for found in families.values():
        corrected = holm([test.p for *_, test in found])
        for (row, reference, test), p in zip(found, corrected, strict=True):
            tests.setdefault(row, {})[reference] = replace(test, p_holm=p)
    return tests
