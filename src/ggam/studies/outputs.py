"""What a study leaves behind: its runs and its table in four formats, its figure, and a page."""

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ggam.drawing.pages import write_page
from ggam.drawing.tables import Column, to_csv, to_latex, to_markdown
from ggam.evaluation.metrics import METRICS
from ggam.studies.claims import BACKBONE_TITLES, CLAIMS, DATA_TITLES, claim_for
from ggam.studies.figures import DARK, LIGHT, describe, draw, render
from ggam.studies.runner import combine
from ggam.studies.table import SHOWN, RowResult, StudyTable
from ggam.studies.wording import (
    answer,
    claim_columns,
    comparison_columns,
    cost_columns,
    heat_columns,
    opening,
    provisional,
    result_columns,
    seed_columns,
)
from ggam.system.files import write_atomic
from ggam.training.recipe import flat_options

PAGE = "index.html"


class _Sheet(NamedTuple):
    """One of the tables of a study, with what must be known to read it."""

    name: str
    note: str
    columns: list[Column]


@dataclass(frozen=True)
class Setup:
    """What a study was run on, and how."""

    data: str
    """Name of the data set."""
    options: Mapping[str, Any]
    """As `Recipe.from_dict` reads them: what rows leave open is common to all."""
    command: str
    """What repeats it."""

    @property
    def common(self) -> dict[str, Any]:
        """The options, but for those that differ from run to run."""
        return {name: value for name, value in self.options.items() if name not in ("method", "seed")}


def write_study(directory: Path | str, table: StudyTable, setup: Setup) -> Path:
    """Write everything about a study: CSV, JSON, Markdown, LaTeX, the figure and the page.

    `runs.csv` and `table.json` hold every measure of every run; the others those that are `SHOWN`.

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
    sheets = _sheets(table, setup)
    shown = [sheet for sheet in sheets.values() if sheet.columns]
    rows = [_row(result, table, setup) for result in table.rows]
    figure = draw(table)
    write_atomic(directory / "runs.csv", _runs_csv(table))
    write_atomic(directory / "table.csv", _table_csv(rows))
    write_atomic(directory / "table.json", _table_json(table, setup, rows))
    write_atomic(directory / "table.md", _table_markdown(table, setup, shown))
    write_atomic(directory / "table.tex", _table_latex(table, shown))
    for form in ("png", "pdf"):
        write_atomic(directory / f"figure.{form}", render(figure, form))
    return _write_page(directory / PAGE, table, setup, sheets)


def _sheets(table: StudyTable, setup: Setup) -> dict[str, _Sheet]:
    """The tables by what they show; one without columns is left out."""
    claims = claim_columns(table, setup.options["backbone"])
    spread = "Mean ± standard deviation over the seeds."
    return {
        "results": _Sheet(
            f"Measured on {setup.data}",
            spread + (" In italics: claimed by the paper, not measured here." if claims else ""),
            [*result_columns(table), *claims],
        ),
        "heat": _Sheet(
            "Where the heat lies", f"{spread} Grad-CAM of the predicted class.", heat_columns(table)
        ),
        "tests": _Sheet(
            "Top-1 against the references",
            "Paired by seed, with the 95 % interval of the difference (Student's t); p is two-sided, and "
            "corrected by Holm's method over the rows held against the same kind of reference.",
            comparison_columns(table, "top1") if table.metrics else [],
        ),
        "costs": _Sheet("Costs", "In brackets: the ratio to the plain network.", cost_columns(table)),
    }


def _runs_csv(table: StudyTable) -> str:
    """A line for each finished run: row, seed, and every measure; empty where a run has it not."""
    measured = {key for record in table.records for key in record.metrics}
    keys = [key for key in SHOWN if key in measured] + sorted(measured.difference(SHOWN))
    lines = (
        [r.row, r.seed, *map(r.metrics.get, keys), r.training_seconds, r.epochs, r.run.name]
        for r in table.records
    )
    return to_csv(["row", "seed", *keys, "training_seconds", "epochs", "run"], lines)


def _table_csv(rows: list[dict[str, Any]]) -> str:
    """A line for each row of the study, with plain numbers: shares from 0 to 1, seconds, bytes."""
    flat = [_flat(row) for row in rows]
    header = list(dict.fromkeys(key for row in flat for key in row))
    return to_csv(header, [[row.get(key) for key in header] for row in flat])


def _table_json(table: StudyTable, setup: Setup, rows: list[dict[str, Any]]) -> str:
    """All of it: question, answer, rows with their statistics, runs, failures, setup."""
    content = {
        "study": table.study.name,
        "title": table.study.title,
        "question": table.study.question,
        "answer": {key: answer(table, key) for key in table.metrics},
        "provisional": provisional(table) or None,
        "data": setup.data,
        "command": setup.command,
        "recipe": setup.common,
        "metrics": {key: METRICS[key]._asdict() for key in table.metrics},
        "controls": table.controls,
        "rows": rows,
        "runs": [{**asdict(record), "run": record.run.name} for record in table.records],
        "failures": [asdict(failure) for failure in table.failures],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _table_markdown(table: StudyTable, setup: Setup, sheets: list[_Sheet]) -> str:
    """Question, answer, and the tables."""
    failed = (f"- failed: {table.study.row(f.row).label}, seed {f.seed}: {f.reason}" for f in table.failures)
    parts = [f"# {table.study.title}", table.study.question, opening(table), *answer(table, "top1")]
    parts += [provisional(table), "\n".join(failed)]
    for sheet in sheets:
        parts += [f"## {sheet.name}", sheet.note, to_markdown(sheet.columns)]
    parts.append(f"## How to run it again\n\n```\n{setup.command}\n```")
    return "\n\n".join(filter(None, parts)) + "\n"


def _table_latex(table: StudyTable, sheets: list[_Sheet]) -> str:
    floats = [
        to_latex(
            sheet.columns,
            f"{table.study.title}: {sheet.name[:1].lower()}{sheet.name[1:]}. {sheet.note}",
            f"tab:{table.study.name}" + (f"-{number}" if number else ""),
        )
        for number, sheet in enumerate(sheets)
    ]
    return "\n\n".join(["% in the preamble: \\usepackage{booktabs,graphicx}", *floats]) + "\n"


def _row(result: RowResult, table: StudyTable, setup: Setup) -> dict[str, Any]:
    """What was measured of a row as plain values."""
    claim = claim_for(table.study.name, result.row, setup.options["backbone"])
    claimed = {f"{data} {claim.backbone}": share for data, share in claim.accuracies.items()} if claim else {}
    values = asdict(result)
    cost = values["cost"] or {}
    return {
        "row": result.row.name,
        "label": result.row.label,
        "seeds": [record.seed for record in result.records],
        "failed": len(result.failures),
        "metrics": values["metrics"],
        "comparisons": values["comparisons"],
        "cost": cost,
        "cost_ratio": {name: result.cost_ratio(name) for name in cost},
        "epoch_seconds": result.epoch_seconds,
        "claimed_by_the_paper": claimed,
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


def _write_page(path: Path, table: StudyTable, setup: Setup, sheets: dict[str, _Sheet]) -> Path:
    """Write the page of a study, finished or not, as one file that needs nothing else."""
    named = sorted({str(row.options["backbone"]) for row in table.study.rows if "backbone" in row.options})
    pictures = {tuple(sorted(record.pictures.items())) for record in table.records}
    drawn = [draw(table, palette) for palette in (LIGHT, DARK)] if table.records else []
    return write_page(
        path,
        "study.html",
        title=table.study.title,
        table=table,
        setup=setup,
        backbones=", ".join(named) or setup.options["backbone"],
        answers=[opening(table), *answer(table, "top1")],
        provisional=provisional(table),
        figures=[base64.b64encode(render(figure, "svg")).decode() for figure in drawn],
        description=describe(table),
        **{name: sheet.columns for name, sheet in sheets.items()},
        meanings=_meanings(key for key in table.metrics if key not in table.controls),
        heat_meanings=_meanings(table.controls),
        measures=[
            {
                "metric": METRICS[key],
                "answers": answer(table, key),
                "tests": comparison_columns(table, key),
                "seeds": seed_columns(table, key),
            }
            for key in table.metrics
        ],
        claims=CLAIMS.get(table.study.name, ()),
        data_titles=DATA_TITLES,
        backbone_titles=BACKBONE_TITLES,
        top1=METRICS["top1"].shown,
        settings=flat_options(setup.common),
        protocols=sorted({record.protocol for record in table.records}),
        pictures=pictures.pop() if len(pictures) == 1 else (),
        starts=_other_starts(table, setup),
    )


def _meanings(keys: Iterable[str]) -> str:
    return "; ".join(f"{METRICS[key].title}: {METRICS[key].meaning}" for key in keys)


def _other_starts(table: StudyTable, setup: Setup) -> list[str]:
    """The rows that start from other published weights than their recipe's backbone has, with these."""
    recipes = {row.label: combine(setup.options, row, 0) for row in table.study.rows}
    return sorted(
        {
            f"{label} starts from {recipe.backbone}"
            for label, recipe in recipes.items()
            if recipe.backbone != recipe.model.backbone
        }
    )
