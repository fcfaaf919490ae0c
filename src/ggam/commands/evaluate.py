"""`ggam evaluate` and `ggam explain`."""

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ggam.commands.options import Switch
from ggam.commands.runs import results_table
from ggam.data.layouts.registry import load_dataset
from ggam.drawing.layout import PrintFormat
from ggam.drawing.pages import counted
from ggam.evaluation.explanation_report import TABLE_FILE, ExplanationReport, refuse_others
from ggam.evaluation.explanations import evaluate_explanations, planned
from ggam.evaluation.measure import evaluator
from ggam.report import write_report
from ggam.report.panels import PanelOptions, explain_files
from ggam.runs.run import Run, RunError, open_model
from ggam.system.console import CONSOLE, progress
from ggam.system.devices import Precision, default_device, resolve_precision


def evaluate(
    run: Path,
    data: Path | None = None,
    *,
    out: Path | None = None,
    layout: str | None = None,
    batch_size: int = 64,
    workers: int = 2,
    precision: Precision = "auto",
    explanations: Annotated[bool, Switch] = False,
    fraction: float = 1.0,
    perturbed: int = 32,
    road: Annotated[bool, Switch] = False,
) -> None:
    """Measure a trained model on test pictures: accuracy, per class, confusions, and its heat maps.

    Args:
        run: A run directory, or a model folder together with DATA.
        data: The data set whose test pictures are used; default: the run's own.
        out: Where the tables and the picture go; default: RUN/evaluation/NAME OF DATA.
        layout: Layout of DATA; default: recognised from its files.
        batch_size: Pictures at a time.
        workers: Processes that read pictures.
        precision: bf16 or fp32; auto: bf16 where the device computes it natively.
        explanations: Also measure where the heat maps lie, and whether the model depends on it.
        fraction: The share of the pictures, above 0 and up to 1, whose heat maps are measured.
        perturbed: How many pictures are perturbed for the measures that take hundreds of forward passes each.
        road: Also measure ROAD on these pictures; needs pytorch-grad-cam, and seconds for each.
    """
    model, origin = open_model(run)
    config = origin.read_config() if origin else {}
    # The run's seed, so that a data set without a split of its own is split as it was for training.
    seed = config.get("seed", 0)
    if data is None:
        if origin is None:
            raise RunError(f"{run}: a model folder knows no data set; name one: ggam evaluate {run} DATA")
        data, layout = Path(config["data"]), layout or config.get("layout")
    test = load_dataset(data, split="test", layout=layout, seed=seed).with_transform(model.config.transform())
    target = out or Run(run).evaluation(data.resolve().name)
    plan: dict[str, Any] = {"fraction": fraction, "perturbed": perturbed, "with_road": road, "seed": seed}
    if explanations:
        refuse_others(target, planned(model, test, **plan))
    summary = evaluator(precision, workers, batch_size)(model, test, target)
    CONSOLE.print(results_table({"this model": summary}))
    crop = model.config.transform()
    CONSOLE.print(
        f"{summary['pictures']} test pictures of {data}; one centre crop of {crop.image_size} pixels, "
        f"the shorter side resized to {crop.resized_side}"
    )
    CONSOLE.print(f"{_protocol(origin)}\ntables and confusion matrix: {target}")
    if explanations:
        device = default_device()
        with progress("explaining") as step:
            report = evaluate_explanations(
                model,
                test,
                batch_size=batch_size,
                workers=workers,
                device=device,
                precision=resolve_precision(precision, device),
                on_batch=step,
                **plan,
            )
        report.write(target)
        _print_explanations(report)
        CONSOLE.print(f"with intervals, for each picture, and the maps: {target / TABLE_FILE}")
        if origin is not None and data.resolve() == Path(config["data"]).resolve():
            with progress("drawing the gallery") as step:
                page = write_report(origin, model, test, explanations=report, workers=workers, on_batch=step)
            CONSOLE.print(f"the run's report has the tables now: {page}")


def _protocol(run: Run | None) -> str:
    """What the model that is measured was trained and chosen on (docs/protocol.md)."""
    if run is None:
        return "protocol: unknown; only a finished run directory says what was trained and chosen on"
    results, data = run.read_results(), run.read_config()["data"]
    return f"protocol: {results.protocol}; epoch {results.chosen['epoch']}, trained on {data}"


def _print_explanations(report: ExplanationReport) -> None:
    """The means; what the intervals are is in the files."""
    titles = ("Heat maps, %", "Rank correlation with the map of the same model, its weights shuffled")
    for title, rows in zip(titles, (report.rows(brief=True), report.forgetting()), strict=True):
        if rows:
            table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
            for number, name in enumerate(rows[0]):
                table.add_column(name, no_wrap=not number, overflow="fold", min_width=6)
            for row in rows[1:]:
                table.add_row(*row)
            CONSOLE.print(table)
    CONSOLE.print(
        "* better than a blob in the centre; a row without * says nothing here", *report.notes(), sep="\n"
    )


def explain(
    run: Path,
    images: list[Path],
    *,
    out: Path | None = None,
    top: int = 3,
    map_: Annotated[list[str] | None, Parameter(name="--map", negative="")] = None,
    class_: Annotated[list[str] | None, Parameter(name="--class", negative="")] = None,
    file_format: Annotated[PrintFormat, Parameter(name="--format")] = "png",
    dpi: int = 160,
    batch_size: int = 16,
) -> None:
    """Say what pictures show, and draw where the model looked.

    Args:
        run: A run directory or a model folder.
        images: Pictures, or folders of pictures.
        out: Where the panels and the raw maps go; default: RUN/explanations.
        top: How many classes to name.
        map_: Which map: gradcam, gradcam-features, spatial, channel, or another that the method has. May be
            given several times; default: gradcam, and spatial where the model has it.
        class_: Explain this class too, beside the predicted one: why not it? May be given several times.
        file_format: png, or pdf with the text as text.
        dpi: Pixels per inch of the panels; a picture is 2 inches wide.
        batch_size: Pictures at a time.
    """
    model, _ = open_model(run)
    target = out or Run(run).explanations
    kinds = tuple(map_) if map_ else None
    options = PanelOptions(maps=kinds, classes=tuple(class_ or ()), file_format=file_format, dpi=dpi)
    with progress("explaining") as step:
        explained, failed = explain_files(
            model.to(default_device()),
            images,
            target,
            options=options,
            top=top,
            batch_size=batch_size,
            on_image=step,
        )
    for picture in explained:
        classes = ", ".join(f"{guess.name} {guess.probability:.0%}" for guess in picture.classes)
        CONSOLE.print(f"{picture.path}: {classes}")
    for failure in failed:
        print(f"ggam: {failure.path}: {failure.reason}", file=sys.stderr)
    CONSOLE.print(f"{counted(len(explained), 'panel')} and raw maps: {target}")
    shown = [heat for picture in explained for heat in picture.shown]
    empty = sum(heat.empty for heat in shown)
    if empty:
        CONSOLE.print(f"{empty} of {len(shown)} maps are empty: nothing in the picture speaks for the class")
    if failed:
        sys.exit(1)
