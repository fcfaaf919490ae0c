"""What a study found, in words and in cells: no more than its statistics say."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ggam.studies.claims import BACKBONE_TITLES, DATA_TITLES, claims_for
from ggam.studies.definition import PLAIN
from ggam.studies.table import METRICS, Comparison, Line, Metric, StudyTable

LEVEL = 0.05
"""A corrected p-value up to this is called a difference."""
MISSING = "–"
_BLANK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Column:
    """A column of a table, as text."""

    title: str
    cells: tuple[str, ...]
    """One for each line."""
    kind: Literal["label", "number", "claim"] = "number"
    details: tuple[str, ...] = ()
    """What a page shows below each cell."""


def answer(table: StudyTable, metric: str) -> list[str]:
    """What the study says about a measure: one sentence or two for each kind of reference."""
    if metric not in table.metrics:
        return ["No run has finished yet: there is nothing to say."]
    sentences = []
    for family in table.families:
        compared = table.compared(metric, family)
        if not compared:
            sentences.append(f"Nothing can be held against {family} yet: no row shares a seed with it.")
        elif all(comparison.corrected is None for _, comparison in compared):
            sentences.append(
                f"Whether a row differs from {family} cannot be tested: that takes at least two seeds which "
                "both have, and differences that vary."
            )
        else:
            sentences.append(_verdict(compared, family, METRICS[metric]))
    return sentences


def opening(table: StudyTable, metric: str) -> str:
    """Where the plain network stands, as a sentence; empty where there is none, or more than one."""
    plain = [line for line in table.lines if line.row.options.get("method") == PLAIN]
    if len(plain) != 1 or metric not in plain[0].summaries:
        return ""
    line, seeds = plain[0], len(plain[0].records)
    reached = f"{_mean(line, metric)}{_BLANK}{METRICS[metric].unit}".strip()
    return (
        f"{_capital(line.row.label)}: {METRICS[metric].title} {reached}, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}."
    )


def provisional(table: StudyTable) -> str:
    """What is missing, as a sentence; empty if every row has the same seeds and none failed."""
    missing = [line.row.label for line in table.lines if not line.records]
    seeds = {tuple(record.seed for record in line.records) for line in table.lines if line.records}
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(table.lines)} rows have no finished run ({'; '.join(missing)})")
    if len(seeds) > 1:
        parts.append(
            "not all rows have finished with the same seeds, so that their means are over different ones"
        )
    if table.failures:
        count = len(table.failures)
        parts.append(f"{count} {'run' if count == 1 else 'runs'} failed")
    if not parts:
        return ""
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}. What is said here is provisional."


def result_columns(table: StudyTable) -> list[Column]:
    """Row, seeds, and each measure of the answers as mean ± standard deviation, its interval below."""
    keys = [key for key in table.metrics if key not in table.controls]
    seeds = Column("seeds", tuple(_seeds(line) for line in table.lines))
    return [_labels(table), seeds, *(_mean_column(table, key) for key in keys)]


def heat_columns(table: StudyTable) -> list[Column]:
    """Row and each measure of where the heat lies, the control as a line of its own; empty without any."""
    if not table.controls:
        return []
    columns = [Column("", (*_labels(table).cells, "always the middle of the picture"), "label")]
    for key, control in table.controls.items():
        measured = _mean_column(table, key)
        cells = (*measured.cells, METRICS[key].shown(control))
        columns.append(replace(measured, cells=cells, details=(*measured.details, "")))
    return columns


def comparison_columns(table: StudyTable, key: str) -> list[Column]:
    """Row, and for each kind of reference the difference with its interval, p, and p after correction."""
    columns = [_labels(table)]
    for family in table.families:
        by_row = {line.row.name: comparison for line, comparison in table.compared(key, family)}
        found = [by_row.get(line.row.name) for line in table.lines]
        unit = ", points" if METRICS[key].unit else ""
        columns += [
            Column(
                f"difference to {family.removeprefix('the ')}{unit}",
                tuple(_difference(c, METRICS[key]) for c in found),
            ),
            Column("p", tuple(MISSING if c is None else p_text(c.test.p) for c in found)),
            Column("p, Holm", tuple(MISSING if c is None else p_text(c.corrected) for c in found)),
        ]
    return columns


def claim_columns(table: StudyTable, backbone: str) -> list[Column]:
    """What the paper claims for the rows, a column for each of its data sets; none for other studies.

    Args:
        table: the study's.
        backbone: of the rows that name none.
    """
    found = [
        {claim.data: claim for claim in claims_for(table.study.name, line.row, backbone)}
        for line in table.lines
    ]
    columns = []
    for data, title in DATA_TITLES.items():
        claims = [claims.get(data) for claims in found]
        names = {BACKBONE_TITLES[claim.backbone] for claim in claims if claim}
        if names:
            cells = tuple(METRICS["top1"].shown(claim.accuracy) if claim else MISSING for claim in claims)
            columns.append(
                Column(f"claimed by the paper, {title}, {' and '.join(sorted(names))}", cells, "claim")
            )
    return columns


def cost_columns(table: StudyTable) -> list[Column]:
    """Row, and what each costs, with the ratio to the plain network; no column if nothing was measured."""
    columns = []
    if any(line.cost for line in table.lines):
        for name, title, scale, form in _COSTS:
            columns.append(Column(title, tuple(_cost(line, name, scale, form) for line in table.lines)))
    if table.records:
        spent = (line.epoch_seconds for line in table.lines)
        cells = tuple(MISSING if seconds is None else f"{seconds:.1f}" for seconds in spent)
        columns.append(Column("s per epoch, as run", cells))
    return [_labels(table), *columns] if columns else []


def p_text(p: float | None) -> str:
    """A p-value with three digits, MISSING where there is none."""
    if p is None:
        return MISSING
    return f"<{_BLANK}0.001" if p < 0.001 else f"{p:.3f}"


_COSTS = (
    ("parameters", "parameters, M", 1e6, "{:.2f}"),
    ("flops", "GFLOPs per picture", 1e9, "{:.2f}"),
    ("step_seconds", "step, ms", 1e-3, "{:.0f}"),
    ("peak_memory_bytes", "peak memory, MiB", 2**20, "{:.0f}"),
)


def _verdict(compared: Sequence[tuple[Line, Comparison]], family: str, metric: Metric) -> str:
    """Who differs beyond chance, by how much, and what cannot be ruled out of the others."""
    differing = [(line, c) for line, c in compared if c.corrected is not None and c.corrected <= LEVEL]
    sentences = []
    for word in ("better", "worse"):
        found = [
            f"{line.row.label} by {_amount(c, metric)} (Holm-corrected p{_BLANK}{_equals(c.corrected)})"
            for line, c in differing
            if ((c.test.difference > 0) == metric.higher_is_better) == (word == "better")
        ]
        if found:
            sentences.append(f"{word.capitalize()} than {family}: {'; '.join(found)}.")
    rest = [c for _, c in compared if c.corrected is not None and c.corrected > LEVEL]
    if rest:
        who = "No other row" if differing else "No row"
        lows = [c.test.low for c in rest if c.test.low is not None]
        highs = [c.test.high for c in rest if c.test.high is not None]
        unit = " points" if metric.unit else ""
        room = (
            f"; the intervals of the differences still leave room for "
            f"{metric.shown(min(lows), signed=True)} to {metric.shown(max(highs), signed=True)}{unit}"
            if lows and highs
            else ""
        )
        sentences.append(
            f"{who} differs from {family} beyond what chance in training explains "
            f"(Holm-corrected p{_BLANK}>{_BLANK}{LEVEL:g}){room}."
        )
    untested = [line.row.label for line, c in compared if c.corrected is None]
    if untested:
        sentences.append(f"Not testable against it: {'; '.join(untested)}.")
    return " ".join(sentences)


def _amount(comparison: Comparison, metric: Metric) -> str:
    """«1.20 points [0.40, 2.00]», without sign."""
    test = comparison.test
    assert test.low is not None and test.high is not None
    low, high = (test.low, test.high) if test.difference > 0 else (-test.high, -test.low)
    unit = f"{_BLANK}points" if metric.unit else ""
    return f"{metric.shown(abs(test.difference))}{unit} [{metric.shown(low)}, {metric.shown(high)}]"


def _equals(p: float | None) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"={_BLANK}{text}"


def _difference(comparison: Comparison | None, metric: Metric) -> str:
    if comparison is None:
        return MISSING
    test = comparison.test
    text = metric.shown(test.difference, signed=True)
    if test.low is None or test.high is None:
        return text
    return f"{text} [{metric.shown(test.low, signed=True)}, {metric.shown(test.high, signed=True)}]"


def _mean_column(table: StudyTable, key: str) -> Column:
    metric = METRICS[key]
    return Column(
        f"{metric.title} {metric.unit}".strip() + ("" if metric.higher_is_better else " ↓"),
        tuple(_mean(line, key) for line in table.lines),
        details=tuple(_interval_below(line, key) for line in table.lines),
    )


def _mean(line: Line, key: str) -> str:
    summary = line.summaries.get(key)
    if summary is None:
        return MISSING
    metric = METRICS[key]
    spread = "" if summary.std is None else f" ± {metric.shown(summary.std)}"
    return f"{metric.shown(summary.mean)}{spread}"


def _interval_below(line: Line, key: str) -> str:
    summary = line.summaries.get(key)
    if summary is None or summary.low is None or summary.high is None:
        return ""
    return f"{METRICS[key].shown(summary.low)} to {METRICS[key].shown(summary.high)}"


def _seeds(line: Line) -> str:
    failed = f"{len(line.failures)} failed" if line.failures else ""
    if not line.records:
        return failed or "not run"
    return f"{len(line.records)} ({failed})" if failed else str(len(line.records))


def _cost(line: Line, name: str, scale: float, form: str) -> str:
    """«1193 (1.03 ×)»: the cost, and its ratio to the plain network's."""
    if line.cost is None:
        return MISSING
    text, ratio = form.format(getattr(line.cost, name) / scale), line.cost_ratio(name)
    return text if ratio is None else f"{text} ({ratio:.2f}{_BLANK}×)"


def _labels(table: StudyTable) -> Column:
    return Column("", tuple(line.row.label for line in table.lines), "label")


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
