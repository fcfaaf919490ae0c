"""`ggam study`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter
from rich.table import Table

from ggam.backbones.weights import BackboneError
from ggam.commands.options import Switch, method_options
from ggam.evaluation.measure import evaluator
from ggam.studies.conclusion import Estimate, conclude, estimate, measure_rows
from ggam.studies.definition import STUDIES, table2
from ggam.studies.runner import PlannedRun, StudyError, claim_folder, collect, interruptible, plan, work
from ggam.studies.table import StudyTable
from ggam.studies.wording import answer, opening
from ggam.system.console import CONSOLE, progress
from ggam.system.devices import DeviceError
from ggam.training.recipe import DataRecipe, MachineRecipe, ModelRecipe, OptimizationRecipe, common_options
from ggam.training.signals import Interrupted


@method_options
def study(
    name: Literal["table2", "table3", "figure4", "guidance"],
    data: Path,
    *,
    out: Path,
    seeds: int = 5,
    dry_run: Annotated[bool, Switch] = False,
    methods: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    backbones: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    config: Path | None = None,
    model: Annotated[ModelRecipe, Parameter(name="*", group="Model")] = ModelRecipe(),
    pictures: Annotated[DataRecipe, Parameter(name="*", group="Data")] = DataRecipe(),
    optimization: Annotated[
        OptimizationRecipe, Parameter(name="*", group="Optimization")
    ] = OptimizationRecipe(),
    machine: Annotated[MachineRecipe, Parameter(name="*", group="Machine")] = MachineRecipe(),
    options: dict[str, Any],
) -> None:
    """Run one of the paper's experiments with several seeds, and draw its result.

    The same command started again goes on where it was; started by several processes, or on several
    machines that see the folder, it shares the work.

    Args:
        name: table2: the methods; table3: the ablation; figure4: the weight λ of the guidance; guidance: its
            targets, with a control.
        data: The data set: CUB-200-2011, class folders, … (docs/datasets.md).
        out: The folder of studies on these data; studies in it share their runs.
        seeds: Runs of each row, with the seeds from --seed on.
        dry_run: List the runs and how long they would take, and do nothing.
        methods: Of table2: which; default: all.
        backbones: Of table2: which; default: --backbone.
        config: A recipe in YAML; flags override it.
        model: Which network.
        pictures: Which pictures.
        optimization: How each run is trained.
        machine: On what, and from which random numbers.
        options: Those of the methods, in rows that leave them open.
    """
    if name != "table2" and (methods or backbones):
        raise StudyError(f"--methods and --backbones belong to table2; {name} compares ways of one method")
    if len(backbones) > 1 and model.weights is not None:
        raise StudyError(f"--weights {model.weights} fits one of --backbones {' '.join(backbones)} at most")
    if model.method != "ggam":
        raise StudyError(f"--method {model.method}: the rows of a study name their methods; see --methods")
    if name != "table2" and options["ggam"].guidance_weight == 0:
        raise StudyError(
            f"--ggam.guidance-weight 0: {name} has rows without guidance; expected a weight above 0"
        )
    chosen = table2(methods, backbones) if name == "table2" else STUDIES[name]()
    common = common_options(model, pictures, optimization, machine, options)
    runs = plan(chosen, common, seeds)
    if dry_run:
        _list(runs, data, out)
        return
    claim_folder(data, runs[0].recipe, out)

    def announce(run: PlannedRun, done: int, total: int) -> None:
        label = chosen.row(run.row).label
        CONSOLE.print(f"[bold]{done + 1}/{total}[/] {label}, seed {run.seed} → {run.name}")

    def wait(count: int) -> None:
        CONSOLE.print(f"waiting for {count} runs that other workers hold")

    def show() -> tuple[StudyTable, Path]:
        return conclude(chosen, runs, common, out, shlex.join(["ggam", *sys.argv[1:]]))

    measure = evaluator(
        machine.precision, pictures.workers, accelerator=machine.accelerator, localization=True
    )
    try:
        with interruptible():
            work(runs, data, out, measure, on_start=announce, on_wait=wait)
            show()  # before what may still go wrong
            with progress("measuring costs") as step:
                measure_rows(chosen, runs, out, step)
    except Interrupted as stopped:
        _, page = show()
        print(
            f"ggam: stopped by {stopped}; everything is saved, go on with the same command; so far: {page}",
            file=sys.stderr,
        )
        sys.exit(128 + stopped.signum)
    except (DeviceError, BackboneError, torch.OutOfMemoryError) as error:
        print(f"ggam: the costs are not measured: {error}", file=sys.stderr)
    table, page = show()
    for sentence in [opening(table), *answer(table, "top1")] if table.records else []:
        CONSOLE.print(sentence)
    CONSOLE.print(f"tables, figure and page: {page}")
    for failure in table.failures:
        print(f"ggam: {failure.row}, seed {failure.seed}: {failure.reason}", file=sys.stderr)
    if table.failures:
        sys.exit(1)


def _list(runs: Sequence[PlannedRun], data: Path, out: Path) -> None:
    """Print what would be done, and how long it would take."""
    records, _ = collect(runs, out)
    finished = {record.run.name: record.training_seconds for record in records}
    with progress("timing a training step") as step:
        estimates = estimate(runs, data, finished, on_round=step)
    table = Table("row", "seed", "run", "time here", "")
    for run, done, seconds in estimates:
        table.add_row(run.row, str(run.seed), run.name, _hours(seconds), "done" if done else "")
    CONSOLE.print(table)
    CONSOLE.print(f"{len(runs)} runs, {len(finished)} of them done; {_total(estimates)}")


def _total(estimates: Sequence[Estimate]) -> str:
    left = sum(seconds for _, done, seconds in estimates if not done)
    return f"about {_hours(left)} to go with one worker on this machine, reading pictures not counted"


def _hours(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
