"""Before and after a study's runs: how long they will take, and what they show."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from optuna.storages import BaseStorage

from ggam.files import write_atomic
from ggam.studies.costs import Cost, measure_costs
from ggam.studies.definition import Study
from ggam.studies.outputs import write_study
from ggam.studies.page import Setup
from ggam.studies.runner import DATA, PlannedRun, collect
from ggam.studies.table import StudyTable, build_table
from ggam.training.run import RunConfig, load_parts

COSTS = "costs.json"
ROUNDS = 7
"""How often each row's training step is timed."""
_FORWARD = 1 / 3
"""A forward pass as a share of a training step."""

OnRound = Callable[[int, int], None]


class Estimate(NamedTuple):
    """A run that is to be done, or has been."""

    run: PlannedRun
    done: bool
    seconds: float
    """On this machine: what it took, or would take by the time of a step; reading pictures not counted."""


def estimate(
    runs: Sequence[PlannedRun], data: Path, finished: Mapping[str, float], on_round: OnRound | None = None
) -> list[Estimate]:
    """How long each run will take, from one training step of each kind of network.

    Args:
        runs: the plan.
        data: the data set.
        finished: seconds of the finished runs, by name.
        on_round: called as `measure_costs` does.

    Raises:
        DataError: if the data cannot be read.
        RunError: if the pictures are too few.
    """
    open_runs = {_network(run): run for run in runs if run.name not in finished}
    parts = load_parts(RunConfig(data, runs[0].recipe))
    train, val, test = map(len, parts)
    recipes = {name: run.recipe for name, run in open_runs.items()}
    classes = len(parts[0].class_names)
    costs = measure_costs(recipes, classes, rounds=1, on_round=on_round) if recipes else {}
    estimates = []
    for run in runs:
        seconds = finished.get(run.name)
        if seconds is None:
            batch, epochs = run.recipe.data.batch_size, run.recipe.optimization.epochs
            measured = epochs * val + (1 + (val > 0)) * test
            steps = epochs * (train // batch) + _FORWARD * measured / batch
            seconds = costs[_network(run)].step_seconds * steps
        estimates.append(Estimate(run, run.name in finished, seconds))
    return estimates


def conclude(
    study: Study,
    runs: Sequence[PlannedRun],
    out: Path,
    storage: BaseStorage,
    command: str,
    *,
    costs: bool,
    on_round: OnRound | None = None,
) -> tuple[StudyTable, Path]:
    """Write tables, figure and page of what has been measured so far.

    Args:
        study: what was run.
        runs: its plan.
        out: the folder of studies.
        storage: where the results are.
        command: what repeats the study.
        costs: measure what the rows cost, unless it is known already.
        on_round: called as `measure_costs` does.

    Returns:
        The table, and the page.
    """
    records, failures = collect(runs, out, storage)
    data = json.loads((out / DATA).read_text("utf-8"))
    folder = out / study.name
    known = _known_costs(folder / COSTS)
    kinds = {run.row: run for run in reversed(runs)}  # the first seed of each row
    if costs and any(run.name not in known for run in kinds.values()):
        recipes = {run.name: run.recipe for run in kinds.values()}
        known = measure_costs(recipes, data["classes"], rounds=ROUNDS, on_round=on_round)
        values = {name: asdict(cost) for name, cost in known.items()}
        write_atomic(folder / COSTS, json.dumps(values, indent=2) + "\n")
    by_row = {row: known[run.name] for row, run in kinds.items() if run.name in known}
    table = build_table(study, records, failures, by_row)
    common = runs[0].recipe
    return table, write_study(folder, table, Setup(data["name"], common, command))


def _known_costs(file: Path) -> dict[str, Cost]:
    if not file.is_file():
        return {}
    return {name: Cost(**values) for name, values in json.loads(file.read_text("utf-8")).items()}


def _network(run: PlannedRun) -> str:
    """What decides the time of a step."""
    return f"{run.recipe.model.method} {run.recipe.model.backbone}"
