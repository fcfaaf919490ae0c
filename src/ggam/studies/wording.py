"""What a study found, in words and in cells: no more than its statistics say."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ggam.drawing.tables import Column
from ggam.evaluation.metrics import METRICS, Metric
from ggam.studies.claims import BACKBONE_TITLES, DATA_TITLES, claim_for
from ggam.studies.statistics import PairedTest
from ggam.studies.table import RowResult, StudyTable, is_plain

LEVEL = 0.05
"""A corrected p-value up to this is called a difference."""
MISSING = "–"
_BLANK = "\N{NO-BREAK SPACE}"
_COSTS = (
    ("parameters, M", "parameters", 1e6, ".2f"),
    ("GFLOPs per picture", "flops", 1e9, ".2f"),
    ("step, ms", "step_seconds", 1e-3, ".0f"),
    ("peak memory, MiB", "peak_memory_bytes", 2**20, ".0f"),
)


def opening(table: StudyTable) -> str:
    """Where the plain network stands, as a sentence; empty where there is none, or more than one."""
    plain = [result for result in table.rows if is_plain(result.row)]
    if len(plain) != 1 or not plain[0].records:
        return ""
    result, seeds = plain[0], len(plain[0].records)
    reached = f"top-1 {_mean('top1', result)}{_BLANK}%"
    return f"{capital(result.row.label)}: {reached}, {seeds} {'seed' if seeds == 1 else 'seeds'}."


def provisional(table: StudyTable) -> str:
    """What is missing, as a sentence; empty if every row has the same seeds and none failed."""
    missing = [result.row.label for result in table.rows if not result.records]
    seeds = {tuple(record.seed for record in result.records) for result in table.rows if result.records}
    failed = len(table.failures)
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(table.rows)} rows have no finished run ({'; '.join(missing)})")
    if len(seeds) > 1:
        parts.append(
            "not all rows have finished with the same seeds, so that their means are over different ones"
        )
    if failed:
        parts.append(f"{failed} {'run' if failed == 1 else 'runs'} failed")
    return f"{capital('; '.join(parts))}. What is said here is provisional." if parts else ""


def answer(table: StudyTable, key: str) -> list[str]:
    """What the study says about a measure: a few sentences for each kind of reference."""
    if key not in table.metrics:
        return ["No run has finished yet: there is nothing to say."]
    return [_verdict(table.compared(key, family), family, METRICS[key]) for family in table.families]


def _verdict(compared: Sequence[tuple[RowResult, PairedTest]], family: str, metric: Metric) -> str:
    """Who differs beyond chance, by how much, and what cannot be ruled out of the others."""
    if not compared:
        return f"Nothing can be held against {family} yet: no row shares a seed with it."
    tested = [(result, test, test.p_holm) for result, test in compared if test.p_holm is not None]
    if not tested:
        return (
            f"Whether a row differs from {family} cannot be tested: that takes at least two seeds which "
            "both have, and differences that vary."
        )
    sentences = []
    for word, good in (("Better", True), ("Worse", False)):
        found = [
            f"{result.row.label} by {_amount(test, metric)} (Holm-corrected p{_BLANK}{_equals(p)})"
            for result, test, p in tested
            if p <= LEVEL and ((test.difference > 0) == metric.higher_is_better) == good
        ]
        if found:
            sentences.append(f"{word} than {family}: {'; '.join(found)}.")
    rest = [test for _, test, p in tested if p > LEVEL]
    if rest:
        sentences.append(
            f"No {'other row' if sentences else 'row'} differs from {family} beyond what chance in training "
            f"explains (Holm-corrected p{_BLANK}>{_BLANK}{LEVEL:g}){_room(rest, metric)}."
        )
    untested = [result.row.label for result, test in compared if test.p_holm is None]
    if untested:
        sentences.append(f"Not testable against it: {'; '.join(untested)}.")
    return " ".join(sentences)


def _amount(test: PairedTest, metric: Metric) -> str:
    """«1.20 points [0.40, 2.00]», without sign."""
    assert test.low is not None and test.high is not None
    low, high = (test.low, test.high) if test.difference > 0 else (-test.high, -test.low)
    unit = f"{_BLANK}points" if metric.unit else ""
    return f"{metric.shown(abs(test.difference))}{unit} [{metric.shown(low)}, {metric.shown(high)}]"


def _equals(p: float) -> str:
    return p_text(p) if p < 0.001 else f"={_BLANK}{p_text(p)}"


def _room(tests: Sequence[PairedTest], metric: Metric) -> str:
    """How far the intervals of rows that do not differ reach."""
    ends = [end for test in tests for end in (test.low, test.high) if end is not None]
    if not ends:
        return ""
    low, high = (metric.shown(end, signed=True) for end in (min(ends), max(ends)))
    unit = " points" if metric.unit else ""
    return f"; the intervals of the differences still leave room for {low} to {high}{unit}"


def result_columns(table: StudyTable) -> list[Column]:
    """Row, seeds, and each measure of the answers as mean ± standard deviation, its interval below."""
    keys = [key for key in table.metrics if key not in table.controls]
    return [_labels(table), _column(table, "seeds", _seeds), *(_mean_column(table, key) for key in keys)]


def heat_columns(table: StudyTable) -> list[Column]:
    """Row and each measure of where the heat lies, the control as a line of its own; empty without any."""
    if not table.controls:
        return []
    columns = [_labels(table), *(_mean_column(table, key) for key in table.controls)]
    control = ["always the middle of the picture"]
    control += [METRICS[key].shown(value) for key, value in table.controls.items()]
    return [
        replace(column, cells=(*column.cells, cell), details=(*column.details, ""))
        for column, cell in zip(columns, control, strict=True)
    ]


def comparison_columns(table: StudyTable, key: str) -> list[Column]:
    """Row, and for each kind of reference the difference with its interval, p, and p after correction.

    No column for a study without references.
    """
    columns = [_labels(table)] if table.families else []
    unit = ", points" if METRICS[key].unit else ""
    for family in table.families:
        tests = {result.row.name: test for result, test in table.compared(key, family)}
        cells = [_comparison(tests.get(result.row.name), METRICS[key]) for result in table.rows]
        titles = (f"difference to {family.removeprefix('the ')}{unit}", "p", "p, Holm")
        columns += map(Column, titles, zip(*cells, strict=True))
    return columns


def claim_columns(table: StudyTable, backbone: str) -> list[Column]:
    """What the paper claims for the rows, a column for each of its data sets; none for other studies.

    Args:
        table: the study's.
        backbone: of the rows that name none.
    """
    claims = [claim_for(table.study.name, result.row, backbone) for result in table.rows]
    columns = []
    for data, title in DATA_TITLES.items():
        found = [claim.accuracies.get(data) if claim else None for claim in claims]
        names = {BACKBONE_TITLES[claim.backbone] for claim in claims if claim and data in claim.accuracies}
        if names:
            cells = tuple(MISSING if value is None else METRICS["top1"].shown(value) for value in found)
            title = f"claimed by the paper, {title}, {' and '.join(sorted(names))}"
            columns.append(Column(title, cells, "claim"))
    return columns


def cost_columns(table: StudyTable) -> list[Column]:
    """Row, and what each costs, with the ratio to the plain network; no column if nothing was measured."""
    columns = []
    if any(result.cost for result in table.rows):
        columns += [_column(table, title, partial(_cost, *of)) for title, *of in _COSTS]
    if table.records:
        columns.append(_column(table, "s per epoch, as run", _epoch_seconds))
    return [_labels(table), *columns] if columns else []


def seed_columns(table: StudyTable, key: str) -> list[Column]:
    """Row, and a measure of each seed by itself."""
    by_row = [{record.seed: record.metrics[key] for record in result.records} for result in table.rows]
    seeds = sorted({record.seed for record in table.records})
    cells = [[METRICS[key].shown(own[s]) if s in own else MISSING for own in by_row] for s in seeds]
    return [_labels(table), *(Column(f"seed {s}", tuple(c)) for s, c in zip(seeds, cells, strict=True))]


def p_text(p: float | None) -> str:
    """A p-value with three digits, MISSING where there is none."""
    if p is None:
        return MISSING
    return f"<{_BLANK}0.001" if p < 0.001 else f"{p:.3f}"


def capital(text: str) -> str:
    """A text that begins a sentence."""
    return f"{text[:1].upper()}{text[1:]}"


def _column(table: StudyTable, title: str, cell: Callable[[RowResult], str]) -> Column:
    return Column(title, tuple(map(cell, table.rows)))


def _labels(table: StudyTable) -> Column:
    return Column("", tuple(result.row.label for result in table.rows), "label")


def _mean_column(table: StudyTable, key: str) -> Column:
    metric = METRICS[key]
    title = f"{metric.title} {metric.unit}".strip() + ("" if metric.higher_is_better else " ↓")
    column = _column(table, title, partial(_mean, key))
    return replace(column, details=tuple(_interval(key, result) for result in table.rows))


def _mean(key: str, result: RowResult) -> str:
    if key not in result.metrics:
        return MISSING
    summary, shown = result.metrics[key], METRICS[key].shown
    return shown(summary.mean) + ("" if summary.std is None else f" ± {shown(summary.std)}")


def _interval(key: str, result: RowResult) -> str:
    summary = result.metrics.get(key)
    if summary is None or summary.low is None or summary.high is None:
        return ""
    return f"{METRICS[key].shown(summary.low)} to {METRICS[key].shown(summary.high)}"


def _seeds(result: RowResult) -> str:
    done, failed = len(result.records), f"{len(result.failures)} failed" if result.failures else ""
    if not done:
        return failed or "not run"
    return f"{done} ({failed})" if failed else str(done)


def _comparison(test: PairedTest | None, metric: Metric) -> tuple[str, str, str]:
    """The difference with its interval, p, and p after correction."""
    if test is None:
        return (MISSING, MISSING, MISSING)
    text = metric.shown(test.difference, signed=True)
    if test.low is not None and test.high is not None:
        text += f" [{metric.shown(test.low, signed=True)}, {metric.shown(test.high, signed=True)}]"
    return text, p_text(test.p), p_text(test.p_holm)


def _cost(name: str, scale: float, form: str, result: RowResult) -> str:
    """«1193 (1.03 ×)»: the cost, and its ratio to the plain network's."""
    if result.cost is None:
        return MISSING
    text, ratio = format(getattr(result.cost, name) / scale, form), result.cost_ratio(name)
    return text if ratio is None else f"{text} ({ratio:.2f}{_BLANK}×)"


def _epoch_seconds(result: RowResult) -> str:
    return MISSING if result.epoch_seconds is None else f"{result.epoch_seconds:.1f}"
