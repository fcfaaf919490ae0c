"""`ggam evaluate` and `ggam explain`."""

import sys
from pathlib import Path

from ggam.commands.console import CONSOLE, progress
from ggam.commands.runs import crop, evaluator, open_run, results_table, training_protocol
from ggam.data.layouts import load_dataset
from ggam.panels import explain_files
from ggam.training.recipe import Precision
from ggam.training.run import RunError
from ggam.training.trainer import default_device


def evaluate(
    run: Path,
    data: Path | None = None,
    *,
    out: Path | None = None,
    layout: str | None = None,
    batch_size: int = 64,
    workers: int = 2,
    precision: Precision = "auto",
) -> None:
    """Measure a trained model on test pictures: accuracy, per class, confusions.

    Args:
        run: A run directory, or a model folder together with DATA.
        data: The data set whose test pictures are used; default: the run's own.
        out: Where the tables and the picture go; default: RUN/evaluation/NAME OF DATA.
        layout: Layout of DATA; default: recognised from its files.
        batch_size: Pictures at a time.
        workers: Processes that read pictures.
        precision: bf16 or fp32; auto: bf16 where the device computes it natively.
    """
    model, config = open_run(run)
    # The run's seed, so that a data set without a split of its own is split as it was for training.
    seed = config.recipe.machine.seed if config else 0
    if data is None:
        if config is None:
            raise RunError(f"{run}: a model folder knows no data set; name one: ggam evaluate {run} DATA")
        data, layout = config.data, layout or config.recipe.data.layout
    test = load_dataset(data, split="test", layout=layout, seed=seed).with_transform(model.config.transform())
    target = out or run / "evaluation" / data.resolve().name
    summary = evaluator(precision, workers, batch_size)(model, test, target)
    CONSOLE.print(results_table({"this model": summary}))
    CONSOLE.print(f"{summary['pictures']} test pictures of {data}; {crop(model)}")
    CONSOLE.print(f"{training_protocol(run)}\ntables and confusion matrix: {target}")


def explain(
    run: Path,
    images: list[Path],
    *,
    out: Path | None = None,
    top: int = 3,
    batch_size: int = 16,
) -> None:
    """Say what pictures show, and draw where the model looked.

    Args:
        run: A run directory or a model folder.
        images: Pictures, or folders of pictures.
        out: Where the panels and the raw maps go; default: RUN/explanations.
        top: How many classes to name.
        batch_size: Pictures at a time.
    """
    model, _ = open_run(run)
    target = out or run / "explanations"
    with progress("explaining") as step:
        explained, failed = explain_files(
            model.to(default_device()), images, target, top=top, batch_size=batch_size, on_image=step
        )
    for picture in explained:
        classes = ", ".join(f"{guess.name} {guess.probability:.0%}" for guess in picture.classes)
        CONSOLE.print(f"{picture.path}: {classes}")
    for failure in failed:
        print(f"ggam: {failure.path}: {failure.reason}", file=sys.stderr)
    CONSOLE.print(f"{len(explained)} panels and raw maps: {target}")
    if failed:
        sys.exit(1)
