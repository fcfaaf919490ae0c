"""Before and after a study's runs: how long they will take, and what they show."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from ggam.studies.costs import Cost, measure_costs
from ggam.studies.definition import Study
from ggam.studies.outputs import Setup, write_study
from ggam.studies.runner import DATA, PlannedRun, collect
from ggam.studies.table import StudyTable, build_table
from ggam.system.devices import default_device
from ggam.system.files import write_atomic
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
    parts = load_parts(RunConfig(data, runs[0].recipe))
    train, val, test = map(len, parts)
    recipes = {_network(run): run.recipe for run in runs if run.name not in finished}
    costs = measure_costs(recipes, len(parts[0].class_names), rounds=1, on_round=on_round) if recipes else {}

    def seconds(run: PlannedRun) -> float:
        batch, epochs = run.recipe.data.batch_size, run.recipe.optimization.epochs
        measured = epochs * val + (1 + (val > 0)) * test
        return costs[_network(run)].step_seconds * (epochs * (train // batch) + _FORWARD * measured / batch)

    return [
        Estimate(run, run.name in finished, finished[run.name] if run.name in finished else seconds(run))
        for run in runs
    ]


def conclude(
    study: Study,
    runs: Sequence[PlannedRun],
    options: Mapping[str, Any],
    out: Path,
    command: str,
) -> tuple[StudyTable, Path]:
    """Write tables, figure and page of what has been measured so far.

    Args:
        study: what was run.
        runs: its plan.
        options: that the plan was made with.
        out: the folder of studies.
        command: what repeats the study.

    Returns:
        The table, and the page.

    Raises:
        StudyError, RunError: as `collect` says.
    """
    records, failures = collect(runs, out)
    known = _known_costs(out / study.name / COSTS)
    costs = {run.row: known[key] for run in runs if (key := _cost_key(run)) in known}
    table = build_table(study, records, failures, costs)
    data = json.loads((out / DATA).read_text("utf-8"))["name"]
    return table, write_study(out / study.name, table, Setup(data, options, command))


def measure_rows(
    study: Study, runs: Sequence[PlannedRun], out: Path, on_round: OnRound | None = None
) -> None:
    """Measure what the rows cost that have a finished run, unless it is known; `conclude` shows it.

    Of workers that end at the same time one measures, undisturbed by the others, who wait for it.

    Raises:
        ValueError: as `measure_costs`.
        RuntimeError: of torch, where the device's memory does not suffice.
    """
    records, _ = collect(runs, out)
    done = {record.row for record in records}
    first_seeds = {run.row: run for run in reversed(runs) if run.row in done}
    file = out / study.name / COSTS
    recipes = {_cost_key(run): run.recipe for run in first_seeds.values()}
    with FileLock(file.with_suffix(".lock")):
        if not recipes.keys() - _known_costs(file).keys():
            return
        classes = json.loads((out / DATA).read_text("utf-8"))["classes"]
        costs = measure_costs(recipes, classes, rounds=ROUNDS, on_round=on_round)
        values = {name: asdict(cost) for name, cost in costs.items()}
        write_atomic(file, json.dumps(values, indent=2) + "\n")


def _known_costs(file: Path) -> dict[str, Cost]:
    if not file.is_file():
        return {}
    return {name: Cost(**values) for name, values in json.loads(file.read_text("utf-8")).items()}


def _cost_key(run: PlannedRun) -> str:
    """What decides a row's costs: its first run, and what it is measured on."""
    machine = run.recipe.machine
    compiled = ", compiled" if machine.compile else ""
    return f"{run.name} on {default_device(machine.accelerator)}{compiled}"


def _network(run: PlannedRun) -> str:
    """What decides the time of a step."""
    return f"{run.recipe.model.method} {run.recipe.model.backbone}"
