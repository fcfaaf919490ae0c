"""What each command does: read the arguments, call the library, print the outcome."""

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ggam.checkpoint import load_model
from ggam.data.check import check_dataset, render
from ggam.data.layouts import load_dataset
from ggam.data.records import FineGrainedDataset
from ggam.data.synthetic import PRESETS, synthesize
from ggam.demo import run_demo
from ggam.evaluation.evaluate import evaluate as measure
from ggam.methods.base import FineGrainedModel
from ggam.methods.ggam import GGAMOptions
from ggam.panels import explain_files
from ggam.report import write_report
from ggam.training.callbacks import Interrupted
from ggam.training.recipe import (
    DataRecipe,
    MachineRecipe,
    ModelRecipe,
    OptimizationRecipe,
    Precision,
    Recipe,
    resolve_precision,
)
from ggam.training.run import CONFIG, RESULTS, RunConfig, RunError, fit
from ggam.training.trainer import default_device

CONSOLE = Console(highlight=False)
PROGRESS = Console(stderr=True)
Switch = Parameter(negative="")


def train(
    data: Path,
    *,
    out: Path,
    config: Path | None = None,
    resume: Annotated[bool, Switch] = False,
    model: Annotated[ModelRecipe, Parameter(name="*", group="Model")] = ModelRecipe(),
    ggam: Annotated[GGAMOptions, Parameter(name="*", group="Method ggam")] = GGAMOptions(),
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
        ggam: The method's own options.
        pictures: Which pictures.
        optimization: How it is trained.
        machine: On what, and from which random numbers.
    """
    recipe = Recipe(model=model, ggam=ggam, data=pictures, optimization=optimization, machine=machine)
    try:
        with quiet_lightning():
            results = fit(
                RunConfig(data, recipe),
                out,
                _evaluator(machine.precision, pictures.workers, accelerator=machine.accelerator),
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
    )
    page = write_report(
        out, trained.to(default_device(machine.accelerator)), test.with_transform(trained.config.transform())
    )
    CONSOLE.print(_results_table(results))
    CONSOLE.print(f"{results['protocol']}\nreport: {page}")


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
    summary = _evaluator(precision, workers, batch_size)(model, test, target)
    CONSOLE.print(_results_table({"this model": summary}))
    CONSOLE.print(f"{summary['pictures']} test pictures of {data}; {_crop(model)}")
    CONSOLE.print(f"{_training_protocol(run)}\ntables and confusion matrix: {target}")


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


def data_check(data: Path, *, layout: str | None = None, json: Annotated[bool, Switch] = False) -> None:
    """Look a data set over before time is spent on it; exit code 1 if something would corrupt a result.

    Args:
        data: The data set: CUB-200-2011, class folders, … (docs/datasets.md).
        layout: Layout of DATA; default: recognised from its files.
        json: Print all that was found, with every file, as JSON.
    """
    with progress("reading") as step:
        report = check_dataset(data, layout, on_progress=step)
    if json:
        print(report.to_json())
    else:
        CONSOLE.print(render(report))
    if not report.ok:
        sys.exit(1)


def data_synthesize(
    out: Path,
    *,
    preset: Literal["cub"] | None = None,
    classes: int | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    background_bias: float = 0.0,
    occlusion: float = 0.0,
) -> None:
    """Generate a fine-grained data set of birds in the CUB-200-2011 layout.

    Args:
        out: The folder to make.
        preset: The size of a published set; cub: 200 classes, 5994 and 5794 pictures of 433 pixels; the
            next four options override it.
        classes: Species; neighbouring ones differ in one small part only; default: 8.
        train_per_class: Training pictures of each species; default: 60.
        test_per_class: Test pictures of each species; default: 30.
        image_size: Height and width of the pictures, in pixels; default: 256.
        seed: The same seed gives the same files, byte for byte.
        background_bias: Share of training pictures that stand on their species' own background.
        occlusion: Share of pictures in which leaves hide a part of the bird.
    """
    size = {
        "classes": classes,
        "train_per_class": train_per_class,
        "test_per_class": test_per_class,
        "image_size": image_size,
    }
    given = {name: value for name, value in size.items() if value is not None}
    with progress("drawing") as step:
        count = synthesize(
            out,
            **PRESETS.get(preset or "", {}) | given,
            seed=seed,
            background_bias=background_bias,
            occlusion=occlusion,
            progress=step,
        )
    CONSOLE.print(f"{count:,} pictures: {out}")


def demo(*, out: Path = Path("demo"), open_page: Annotated[bool, Parameter(name="--open")] = True) -> None:
    """Generate birds, train with and without attention, and compare the two on one page.

    Args:
        out: The folder to work in; made again if an earlier demo left it.
        open_page: Open the page in the browser at the end.
    """
    try:
        with quiet_lightning():
            run_demo(out, CONSOLE, _evaluator("auto", 2), progress, open_page=open_page)
    except Interrupted as stopped:
        print(f"ggam: stopped by {stopped}; ggam demo starts over", file=sys.stderr)
        sys.exit(128 + stopped.signum)


def open_run(run: Path) -> tuple[FineGrainedModel, RunConfig | None]:
    """The model of a run directory with the run's configuration, or of a model folder without one.

    Raises:
        RunError: if there is no trained model.
    """
    if (run / "config.json").is_file():
        return load_model(run), None
    if not (run / "model").is_dir():
        what = "not a run directory" if run.is_dir() else "no such folder"
        if (run / CONFIG).is_file():
            what = "the run is not finished: continue it with ggam train --resume"
        raise RunError(f"{run}: holds no trained model ({what})")
    return load_model(run / "model"), RunConfig.read(run)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; the block gets a function to call with what is done and what there is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=PROGRESS, transient=True, disable=not PROGRESS.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's advice and the warnings that do not concern our users."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*isinstance.treespec, LeafSpec.. is deprecated.*",
            ".*ended before the epoch ended and your dataloader is not resumable.*",
            ".*Checkpoint directory .* exists and is not empty.*",
            ".*`weights_only` was not set.*",
        ):
            warnings.filterwarnings("ignore", message)
        yield


def _evaluator(
    precision: Precision, workers: int, batch_size: int = 64, accelerator: str = "auto"
) -> Callable[[FineGrainedModel, FineGrainedDataset, Path], Mapping[str, float]]:
    """What measures a model and writes the report into a folder."""

    def run(model: FineGrainedModel, dataset: FineGrainedDataset, out: Path) -> Mapping[str, float]:
        device = default_device(accelerator)
        with progress("evaluating") as step:
            report = measure(
                model,
                dataset,
                batch_size=batch_size,
                workers=workers,
                device=device,
                precision=resolve_precision(precision, device),
                on_batch=step,
            )
        report.write(out)
        return report.summary()

    return run


def _crop(model: FineGrainedModel) -> str:
    """What of each picture the model was shown."""
    transform = model.config.transform()
    return (
        f"one centre crop of {transform.image_size} pixels, the shorter side resized to "
        f"{transform.resized_side}"
    )


def _training_protocol(run: Path) -> str:
    """What the model that is measured was trained and chosen on (docs/protocol.md)."""
    try:
        results = json.loads((run / RESULTS).read_text("utf-8"))
        epoch = results[results["selected"]]["epoch"]
        return f"protocol: {results['protocol']}; epoch {epoch}, trained on {RunConfig.read(run).data}"
    except (OSError, KeyError, ValueError):
        return "protocol: unknown; only a finished run directory says what was trained and chosen on"


def _results_table(results: Mapping[str, object]) -> Table:
    """A row for each model measured on the test pictures."""
    table = Table("", "top-1 %", "top-5 %", "per class %", "epoch")
    for name, row in results.items():
        if isinstance(row, Mapping) and "top1" in row:
            shares = (f"{100 * row[key]:.2f}" for key in ("top1", "top5", "macro"))
            chosen = " (chosen)" if results.get("selected") == name else ""
            table.add_row(f"{name}{chosen}", *shares, str(row.get("epoch", "")))
    return table
