"""What a study leaves behind: its runs and its table in four formats, its figure, and a page."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ggam.studies.claims import claims_for
from ggam.studies.figures import draw, render
from ggam.studies.formats import to_csv, to_latex, to_markdown
from ggam.studies.page import NOT_COMMON, Setup, write_study_page
from ggam.studies.table import METRICS, Line, StudyTable
from ggam.studies.wording import (
    Column,
    answer,
    claim_columns,
    comparison_columns,
    cost_columns,
    heat_columns,
    opening,
    provisional,
    result_columns,
)
from ggam.system.files import write_atomic

PAGE = "index.html"


class _Sheet(NamedTuple):
    """One of the tables of a study, with what must be known to read it."""

    name: str
    columns: list[Column]
    note: str


def write_study(directory: Path | str, table: StudyTable, setup: Setup) -> Path:
    """Write everything about a study: CSV, JSON, Markdown, LaTeX, the figure and the page.

    `runs.csv` and `table.json` hold every measure of every run; the others those of `METRICS`.

    Args:
        directory: where; files of an earlier call are replaced, each at once.
        table: what was measured, finished or not.
        setup: on what, with which recipe, by which command.

    Returns:
        The page.

    Raises:
        OSError: if the directory cannot be written to.
    """
    directory = Path(directory)
    rows = [_row(line, table, setup) for line in table.lines]
    sheets = _sheets(table, setup)
    figure = draw(table)
    write_atomic(directory / "runs.csv", _runs_csv(table))
    write_atomic(directory / "table.csv", _table_csv(rows))
    write_atomic(directory / "table.json", _table_json(table, setup, rows))
    write_atomic(directory / "table.md", _table_markdown(table, setup, sheets))
    write_atomic(directory / "table.tex", _table_latex(table, sheets))
    for form in ("png", "pdf"):
        write_atomic(directory / f"figure.{form}", render(figure, form))
    return write_study_page(directory / PAGE, table, setup)


def _runs_csv(table: StudyTable) -> str:
    """A line for each finished run: row, seed, and every measure; empty where a run has it not."""
    records = table.records
    measured = {key for record in records for key in record.metrics}
    keys = [key for key in METRICS if key in measured] + sorted(measured - METRICS.keys())
    header = ["row", "seed", *keys, "training_seconds", "epochs", "run"]
    return to_csv(
        header,
        [
            [r.row, r.seed, *(r.metrics.get(key) for key in keys), r.training_seconds, r.epochs, r.run.name]
            for r in records
        ],
    )


def _table_csv(rows: list[dict[str, Any]]) -> str:
    """A line for each row of the study, with plain numbers: shares from 0 to 1, seconds, bytes."""
    flat = [_flat(row) for row in rows]
    header = list(dict.fromkeys(key for row in flat for key in row))
    return to_csv(header, [[row.get(key) for key in header] for row in flat])


def _table_json(table: StudyTable, setup: Setup, rows: list[dict[str, Any]]) -> str:
    """All of it: question, answer, rows with their statistics, runs, failures, setup."""
    study = table.study
    content = {
        "study": study.name,
        "title": study.title,
        "question": study.question,
        "answer": {key: answer(table, key) for key in table.metrics},
        "provisional": provisional(table) or None,
        "data": setup.data,
        "command": setup.command,
        "recipe": {name: value for name, value in setup.options.items() if name not in NOT_COMMON},
        "metrics": {key: METRICS[key]._asdict() for key in table.metrics},
        "controls": dict(table.controls),
        "rows": rows,
        "runs": [
            {**asdict(record), "run": record.run.name, "metrics": dict(record.metrics)}
            for record in table.records
        ],
        "failures": [asdict(failure) for failure in table.failures],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _table_markdown(table: StudyTable, setup: Setup, sheets: list[_Sheet]) -> str:
    """Question, answer, and the tables."""
    key = table.metrics[0] if table.metrics else ""
    failed = (f"- failed: {table.study.row(f.row).label}, seed {f.seed}: {f.reason}" for f in table.failures)
    parts = [
        f"# {table.study.title}",
        table.study.question,
        opening(table, key),
        *answer(table, key),
        provisional(table),
        "\n".join(failed),
    ]
    for sheet in sheets:
        parts += [f"## {sheet.name}", sheet.note, to_markdown(sheet.columns)]
    parts += [f"## How to run it again\n\n```\n{setup.command}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table_latex(table: StudyTable, sheets: list[_Sheet]) -> str:
    title = table.study.title
    floats = [
        to_latex(
            sheet.columns,
            f"{title}: {sheet.name[:1].lower()}{sheet.name[1:]}. {sheet.note}".strip(),
            f"tab:{table.study.name}" + (f"-{number}" if number else ""),
        )
        for number, sheet in enumerate(sheets)
    ]
    return "\n\n".join(["% in the preamble: \\usepackage{booktabs,graphicx}", *floats]) + "\n"


def _sheets(table: StudyTable, setup: Setup) -> list[_Sheet]:
    claims = claim_columns(table, setup.options["backbone"])
    spread = "Mean ± standard deviation over the seeds."
    note = f"{spread} In italics: claimed by the paper, not measured here." if claims else spread
    sheets = [_Sheet(f"Measured on {setup.data}", [*result_columns(table), *claims], note)]
    if heat := heat_columns(table):
        sheets.append(_Sheet("Where the heat lies", heat, f"{spread} Grad-CAM of the predicted class."))
    if table.metrics and table.families:
        key = table.metrics[0]
        tests = (
            "Paired by seed, with the 95 % interval of the difference (Student's t); p is two-sided, and "
            "corrected by Holm's method over the rows held against the same kind of reference."
        )
        name = f"{METRICS[key].title[:1].upper()}{METRICS[key].title[1:]} against the references"
        sheets.append(_Sheet(name, comparison_columns(table, key), tests))
    if costs := cost_columns(table):
        sheets.append(_Sheet("Costs", costs, "In brackets: the ratio to the plain network."))
    return sheets


def _row(line: Line, table: StudyTable, setup: Setup) -> dict[str, Any]:
    """A line as plain values."""
    claims = claims_for(table.study.name, line.row, setup.options["backbone"])
    costs = {} if line.cost is None else asdict(line.cost)
    return {
        "row": line.row.name,
        "label": line.row.label,
        "seeds": [record.seed for record in line.records],
        "failed": len(line.failures),
        "metrics": {key: asdict(summary) for key, summary in line.summaries.items()},
        "comparisons": {
            key: {
                comparison.reference: {**asdict(comparison.test), "p_holm": comparison.corrected}
                for comparison in comparisons
            }
            for key, comparisons in line.comparisons.items()
        },
        "cost": costs,
        "cost_ratio": {name: line.cost_ratio(name) for name in costs},
        "epoch_seconds": line.epoch_seconds,
        "claimed_by_the_paper": {f"{claim.data} {claim.backbone}": claim.accuracy for claim in claims},
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; lists as words."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = " ".join(map(str, value)) if isinstance(value, list) else value
    return flat
