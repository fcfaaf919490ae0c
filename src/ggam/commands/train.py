"""`ggam train`."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ggam.commands.console import CONSOLE, Switch, progress, quiet_lightning
from ggam.commands.runs import evaluator, open_run, results_table
from ggam.commands.share import say_card
from ggam.data.layouts.registry import load_dataset
from ggam.deploy.model_card import CARD_FILE, write_run_card
from ggam.deploy.serve.examples import keep_examples
from ggam.methods.ggam import GGAMOptions
from ggam.methods.insertion import InsertionOptions
from ggam.report import write_report
from ggam.report.run import REPORT_FILE
from ggam.system.devices import default_device
from ggam.training.callbacks import Interrupted
from ggam.training.recipe import DataRecipe, MachineRecipe, ModelRecipe, OptimizationRecipe, Recipe
from ggam.training.run import RunConfig, fit, load_parts


def train(
    data: Path,
    *,
    out: Path,
    config: Path | None = None,
    resume: Annotated[bool, Switch] = False,
    model: Annotated[ModelRecipe, Parameter(name="*", group="Model")] = ModelRecipe(),
    ggam: Annotated[GGAMOptions, Parameter(name="*", group="Method ggam")] = GGAMOptions(),
    insertion: Annotated[
        InsertionOptions, Parameter(name="*", group="Methods senet and cbam")
    ] = InsertionOptions(),
    pictures: Annotated[DataRecipe, Parameter(name="*", group="Data")] = DataRecipe(),
    optimization: Annotated[
        OptimizationRecipe, Parameter(name="*", group="Optimization")
    ] = OptimizationRecipe(),
    machine: Annotated[MachineRecipe, Parameter(name="*", group="Machine")] = MachineRecipe(),
) -> None:
    """Train a model on a data set and evaluate it once on the test pictures.

    Args:
        data: The data set: CUB-200-2011, class folders, … (docs/datasets.md).
        out: The run directory to make.
        config: A recipe in YAML; flags override it.
        resume: Continue the run in --out from its last checkpoint, with its own recipe.
        model: Which network.
        ggam: The options of ggam.
        insertion: The options of senet and cbam.
        pictures: Which pictures.
        optimization: How it is trained.
        machine: On what, and from which random numbers.
    """
    recipe = Recipe(
        model=model,
        ggam=ggam,
        insertion=insertion,
        data=pictures,
        optimization=optimization,
        machine=machine,
    )
    try:
        with quiet_lightning():
            results = fit(
                RunConfig(data, recipe),
                out,
                evaluator(machine.precision, pictures.workers, accelerator=machine.accelerator),
                resume=resume,
            )
    except Interrupted as stopped:
        print(
            f"ggam: stopped by {stopped}; everything is saved, continue with: "
            f"ggam train {data} --out {out} --resume",
            file=sys.stderr,
        )
        sys.exit(128 + stopped.signum)
    if results is None:  # a rank other than the first
        return
    trained, used = open_run(out)
    assert used is not None  # fit() wrote it
    test = load_dataset(
        used.data, split="test", layout=used.recipe.data.layout, seed=used.recipe.machine.seed
    ).with_transform(trained.config.transform())
    trained.to(default_device(machine.accelerator))
    card = write_run_card(out, trained, test)
    page = out / REPORT_FILE
    # Else the run was finished before: ggam evaluate may have added to the page, and somebody may have
    # changed the examples, or removed them.
    if not page.is_file():
        keep_examples(out, load_parts(used)[0], used.recipe.machine.seed)
        with progress("drawing the gallery") as step:
            write_report(out, trained, test, workers=used.recipe.data.workers, on_batch=step)
    CONSOLE.print(results_table(results))
    CONSOLE.print(f"{results['protocol']}\nreport: {page}")
    say_card(out / "model" / CARD_FILE, written=card)
