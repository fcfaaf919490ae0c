"""`ggam train`."""

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ggam.commands.options import Switch, chosen_options, method_options
from ggam.commands.runs import results_table
from ggam.commands.share import say_card
from ggam.deploy.model_card import is_edited
from ggam.fitting import train_run
from ggam.runs.run import Run
from ggam.system.console import CONSOLE
from ggam.training.recipe import DataRecipe, MachineRecipe, ModelRecipe, OptimizationRecipe, Recipe
from ggam.training.run import RunConfig
from ggam.training.signals import Interrupted


@method_options
def train(
    data: Path,
    *,
    out: Path,
    config: Path | None = None,
    resume: Annotated[bool, Switch] = False,
    model: Annotated[ModelRecipe, Parameter(name="*", group="Model")] = ModelRecipe(),
    pictures: Annotated[DataRecipe, Parameter(name="*", group="Data")] = DataRecipe(),
    optimization: Annotated[
        OptimizationRecipe, Parameter(name="*", group="Optimization")
    ] = OptimizationRecipe(),
    machine: Annotated[MachineRecipe, Parameter(name="*", group="Machine")] = MachineRecipe(),
    options: dict[str, Any],
) -> None:
    """Train a model on a data set and evaluate it once on the test pictures.

    Help lists the options of the method ggam; with --method NAME before --help, those of that one.

    Args:
        data: The data set: CUB-200-2011, class folders, … (docs/datasets.md).
        out: The run directory to make.
        config: A recipe in YAML; flags override it.
        resume: Continue the run in --out from its last checkpoint, with its own recipe.
        model: Which network.
        pictures: Which pictures.
        optimization: How it is trained.
        machine: On what, and from which random numbers.
        options: Those of the methods.
    """
    recipe = Recipe(
        model=model,
        options=chosen_options(model.method, options),
        data=pictures,
        optimization=optimization,
        machine=machine,
    )
    run = Run(out)
    try:
        results = train_run(RunConfig(data, recipe), run, resume=resume)
    except Interrupted as stopped:
        print(
            f"ggam: stopped by {stopped}; everything is saved, continue with: "
            f"ggam train {data} --out {out} --resume",
            file=sys.stderr,
        )
        sys.exit(128 + stopped.signum)
    if results is None:  # a rank other than the first
        return
    CONSOLE.print(results_table(results.epochs, results.selected))
    CONSOLE.print(f"{results.protocol}\nreport: {run.report_page}")
    say_card(run.card, written=not is_edited(run.model_folder))
