"""The table of a study: for each row its measures over the seeds, its tests, its costs and its failures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from ggam.studies.costs import Cost
from ggam.studies.definition import PLAIN, Row, Study
from ggam.studies.records import Failure, RunRecord
from ggam.studies.statistics import PairedTest, Summary, holm, paired_test, summarize


class Metric(NamedTuple):
    """How a measure is shown."""

    title: str
    meaning: str
    unit: str = "%"
    """`%`: shares, shown as per cent and their differences as points; empty: as they are."""
    higher_is_better: bool = True

    def shown(self, value: float, *, signed: bool = False) -> str:
        """A value as text, without its unit; minus is written as such."""
        scaled, places = (100 * value, 2) if self.unit else (value, 3)
        rounded = round(scaled, places) + 0.0  # no minus before a zero
        plus = "+" if signed and rounded else ""
        return f"{rounded:{plus}.{places}f}".replace("-", "\N{MINUS SIGN}")


METRICS: dict[str, Metric] = {
    "top1": Metric("top-1", "test pictures whose class comes first"),
    "top5": Metric("top-5", "test pictures whose class is among the first five"),
    "macro": Metric("per class", "mean over the classes of their accuracy"),
    "loss": Metric("loss", "mean cross-entropy on the test pictures", "", False),
    "on_object": Metric("on object", "pictures whose Grad-CAM map is highest on the object"),
    "on_part": Metric(
        "on telling part", "pictures whose Grad-CAM map is highest on a part that sets the class apart"
    ),
    "energy": Metric("heat on object", "share of the Grad-CAM map's heat that lies on the object"),
    "part_energy": Metric(
        "heat on telling part", "share of the Grad-CAM map's heat on the parts that set the class apart"
    ),
}
"""What tables show, in their order; whatever else was measured is in `runs.csv` and `table.json`."""


@dataclass(frozen=True)
class Comparison:
    """One measure of a row against one of its references."""

    reference: str
    """Name of the reference's row."""
    family: str
    """What the reference is; Holm's correction is over all rows with a reference of the same family."""
    test: PairedTest
    corrected: float | None
    """p after Holm's correction."""


@dataclass(frozen=True)
class Line:
    """One row of the table; a row that was not run has neither records nor summaries."""

    row: Row
    records: tuple[RunRecord, ...]
    """Finished runs, in the order of their seeds."""
    failures: tuple[Failure, ...]
    summaries: Mapping[str, Summary]
    """By measure."""
    comparisons: Mapping[str, tuple[Comparison, ...]]
    """By measure, one for each reference that shares a seed."""
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
    lines: tuple[Line, ...]
    metrics: tuple[str, ...]
    """Keys of `METRICS` that every finished run has, accuracy first; empty if none is finished."""
    controls: Mapping[str, float]
    """By measure: what always pointing at the middle of the picture reaches."""

    @property
    def records(self) -> list[RunRecord]:
        """All finished runs, row by row."""
        return [record for line in self.lines for record in line.records]

    @property
    def failures(self) -> list[Failure]:
        """All runs that failed, row by row."""
        return [failure for line in self.lines for failure in line.failures]

    @property
    def families(self) -> list[str]:
        """What rows are held against, in the order of their appearance."""
        references = (name for line in self.lines for name in line.row.references)
        return list(dict.fromkeys(family_of(self.study.row(name)) for name in references))

    def line(self, row: str) -> Line:
        """The line of a row."""
        return next(line for line in self.lines if line.row.name == row)

    def compared(self, metric: str, family: str) -> list[tuple[Line, Comparison]]:
        """The lines that a family of references tests, with their comparison."""
        return [
            (line, found)
            for line in self.lines
            for found in line.comparisons.get(metric, ())
            if found.family == family
        ]


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
    _check(study, records)
    metrics = _common_metrics(records)
    values = {key: _by_row(records, key) for key in metrics}
    comparisons = {key: _compare(study, values[key]) for key in metrics}
    lines = []
    for row in study.rows:
        own = sorted((r for r in records if r.row == row.name), key=lambda record: record.seed)
        lines.append(
            Line(
                row,
                tuple(own),
                tuple(failure for failure in failures if failure.row == row.name),
                {key: summarize([record.metrics[key] for record in own]) for key in metrics if own},
                {key: comparisons[key].get(row.name, ()) for key in metrics},
                (costs or {}).get(row.name),
                (costs or {}).get(_plain_of(study, row)),
            )
        )
    controls = {
        key: fmean(record.metrics[f"centre_{key}"] for record in records)
        for key in metrics
        if all(f"centre_{key}" in record.metrics for record in records)
    }
    return StudyTable(study, tuple(lines), metrics, controls)


def family_of(reference: Row) -> str:
    """What a reference stands for, as a noun: rows of a study that share it are corrected together."""
    options = reference.options
    if options.get("method") == PLAIN:
        return "the plain network"
    if options.get("guidance") is False:
        return "the same attention without guidance"
    return f"the {reference.label}"


def _check(study: Study, records: Sequence[RunRecord]) -> None:
    names = [row.name for row in study.rows]
    seen = set()
    for record in records:
        if record.row not in names:
            raise ValueError(
                f"{record.run}: a run of row {record.row!r}, but {study.name} has {', '.join(names)}"
            )
        if (record.row, record.seed) in seen:
            raise ValueError(f"{record.run}: a second run of row {record.row!r} with seed {record.seed}")
        seen.add((record.row, record.seed))


def _common_metrics(records: Sequence[RunRecord]) -> tuple[str, ...]:
    """The measures that all runs have; the mean over classes only where it is not the accuracy itself."""
    common = [key for key in METRICS if records and all(key in record.metrics for record in records)]
    if "macro" in common and all(
        math.isclose(record.metrics["macro"], record.metrics["top1"]) for record in records
    ):
        common.remove("macro")
    return tuple(common)


def _by_row(records: Sequence[RunRecord], metric: str) -> dict[str, dict[int, float]]:
    """A measure by row and seed."""
    values: dict[str, dict[int, float]] = {}
    for record in records:
        values.setdefault(record.row, {})[record.seed] = record.metrics[metric]
    return values


def _compare(study: Study, values: Mapping[str, Mapping[int, float]]) -> dict[str, tuple[Comparison, ...]]:
    """Every row against its references, corrected over the rows of each family."""
    found: dict[str, list[tuple[str, str, PairedTest]]] = {}
    for row in study.rows:
        for name in row.references:
            test = paired_test(values.get(row.name, {}), values.get(name, {}))
            if test is not None:
                found.setdefault(family_of(study.row(name)), []).append((row.name, name, test))
    comparisons: dict[str, tuple[Comparison, ...]] = {}
    for family, tests in found.items():
        corrected = holm([test.p for _, _, test in tests])
        for (row, reference, test), p in zip(tests, corrected, strict=True):
            comparison = Comparison(reference, family, test, p)
            comparisons[row] = (*comparisons.get(row, ()), comparison)
    return comparisons


def _plain_of(study: Study, row: Row) -> str:
    """The plain network that a row's costs are held against: itself, or the one it is tested against."""
    if row.options.get("method") == PLAIN:
        return row.name
    plain = (name for name in row.references if study.row(name).options.get("method") == PLAIN)
    return next(plain, "")
