"""The page of a study: question, answer, figure, tables, protocol, and how to run it again."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggam.drawing.pages import write_page
from ggam.studies.claims import BACKBONE_TITLES, CLAIMS, DATA_TITLES
from ggam.studies.figures import DARK, LIGHT, describe, draw, render
from ggam.studies.runner import combine
from ggam.studies.table import METRICS, StudyTable
from ggam.studies.wording import (
    MISSING,
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

NOT_COMMON = {"method", "seed"}
"""Options that differ from run to run."""


@dataclass(frozen=True)
class Setup:
    """What a study was run on, and how."""

    data: str
    """Name of the data set."""
    options: Mapping[str, Any]
    """By the flat names of the recipe: what rows leave open is common to all."""
    command: str
    """What repeats it."""


def write_study_page(path: Path, table: StudyTable, setup: Setup) -> Path:
    """Write the page of a study, finished or not, as one file that needs nothing else."""
    primary = table.metrics[0] if table.metrics else ""
    return write_page(
        path,
        "study.html",
        title=table.study.title,
        question=table.study.question,
        setting=_setting(table, setup),
        answers=[opening(table, primary), *answer(table, primary)],
        provisional=provisional(table),
        figure=_figure(table, primary) if primary else None,
        results=_grid([*result_columns(table), *claim_columns(table, setup.options["backbone"])]),
        heat=_grid(heat_columns(table)),
        meanings=_meanings(key for key in table.metrics if key not in table.controls),
        heat_meanings=_meanings(table.controls),
        measures=[_measure(table, key) for key in table.metrics],
        costs=_grid(cost_columns(table)),
        claims=_claims(table),
        protocol=_protocol(table, setup),
        settings=[
            (name, MISSING if value is None else str(value))
            for name, value in setup.options.items()
            if name not in NOT_COMMON
        ],
        failures=[(table.line(f.row).row.label, f.seed, f.reason) for f in table.failures],
        command=setup.command,
    )


def _setting(table: StudyTable, setup: Setup) -> str:
    runs = len(table.records)
    named = {str(row.options["backbone"]) for row in table.study.rows if "backbone" in row.options}
    backbone = ", ".join(sorted(named)) or setup.options["backbone"]
    finished = "1 finished run" if runs == 1 else f"{runs} finished runs"
    return f"{setup.data}, {backbone} at {setup.options['image_size']} pixels; {finished}"


def _figure(table: StudyTable, metric: str) -> dict[str, str]:
    """The figure in light and dark colours, and in words."""
    light, dark = (
        base64.b64encode(render(draw(table, metric, palette), "svg")).decode() for palette in (LIGHT, DARK)
    )
    return {
        "light": f"data:image/svg+xml;base64,{light}",
        "dark": f"data:image/svg+xml;base64,{dark}",
        "text": describe(table, metric),
        "caption": _caption(table),
    }


def _caption(table: StudyTable) -> str:
    text = (
        "Large dots: means over the seeds. Bars: 95 % bootstrap intervals of the mean, which are too narrow "
        "for few seeds. Small dots: single seeds."
    )
    if table.study.axis:
        return f"{text} Levels: rows without a place on the axis, with the band of their interval."
    return f"{text} Dashed: the plain network."


def _grid(columns: Sequence[Column]) -> dict[str, Any]:
    """Columns as a template wants them: heads, and rows of cells."""
    rows = [
        [
            {
                "text": column.cells[number],
                "detail": column.details[number] if column.details else "",
                "kind": column.kind,
                "name": column.title,
            }
            for column in columns
        ]
        for number in range(len(columns[0].cells) if columns else 0)
    ]
    return {"heads": [{"text": c.title, "kind": c.kind} for c in columns], "rows": rows}


def _meanings(keys: Iterable[str]) -> str:
    return "; ".join(f"{METRICS[key].title}: {METRICS[key].meaning}" for key in keys)


def _measure(table: StudyTable, key: str) -> dict[str, Any]:
    """A measure against the references, and of every seed."""
    metric = METRICS[key]
    seeds = sorted({record.seed for record in table.records})
    by_line = [{record.seed: record.metrics[key] for record in line.records} for line in table.lines]
    values = [
        Column(
            f"seed {seed}",
            tuple(metric.shown(found[seed]) if seed in found else MISSING for found in by_line),
        )
        for seed in seeds
    ]
    labels = Column("", tuple(line.row.label for line in table.lines), "label")
    return {
        "title": f"{metric.title} {metric.unit}".strip(),
        "answers": answer(table, key),
        "tests": _grid(comparison_columns(table, key)) if table.families else None,
        "seeds": _grid([labels, *values]),
    }


def _claims(table: StudyTable) -> list[dict[str, Any]]:
    """The paper's own table: a line for each system and backbone, a cell for each data set."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for claim in CLAIMS.get(table.study.name, ()):
        cells = found.setdefault((claim.system, claim.backbone), {})
        cells[claim.data] = METRICS["top1"].shown(claim.accuracy)
    return [
        {
            "system": system,
            "backbone": BACKBONE_TITLES[backbone],
            "cells": [(DATA_TITLES[data], cells[data]) for data in DATA_TITLES if data in cells],
        }
        for (system, backbone), cells in found.items()
    ]


def _protocol(table: StudyTable, setup: Setup) -> list[str]:
    protocols = sorted({record.protocol for record in table.records})
    counts = sorted({tuple(sorted(record.pictures.items())) for record in table.records})
    texts = [f"Protocol: {'; or '.join(protocols)}."] if protocols else []
    if len(counts) == 1:
        texts.append(
            "Pictures: " + ", ".join(f"{number} {part}" for part, number in dict(counts[0]).items()) + "."
        )
    texts.append(
        f"All rows share the classifier, the budget ({setup.options['epochs']} epochs, batches of "
        f"{setup.options['batch_size']}) and, seed by seed, the split and the order of the pictures. The "
        "seeds are all that varies within a row: what another draw of test pictures would do is in no "
        "interval here. p holds for a number of seeds that was fixed beforehand."
    )
    if setup.options.get("pool") == "max":
        texts.append("The rows of GGAM pool by the maximum, as this preset does; the plain network averages.")
    published = {
        f"{row.label} starts from {recipe.backbone}"
        for row in table.study.rows
        if (recipe := combine(setup.options, row, 0)).backbone != recipe.model.backbone
    }
    texts += [
        f"{text}, weights of another ImageNet training than the other rows'." for text in sorted(published)
    ]
    return texts
