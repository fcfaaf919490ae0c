"""`ggam export` and `ggam predict`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter
from rich.progress import Progress, SpinnerColumn, TextColumn
from torch import Tensor

from ggam.commands.options import Switch
from ggam.data.records import DataError
from ggam.data.transforms import ImageTransform
from ggam.deploy.export import Exported, Format, config_at, export_model, noise_pictures
from ggam.deploy.predictions.run import Summary, predict_files
from ggam.deploy.predictor import accuracy_of, open_predictor
from ggam.runs.run import Run, open_model
from ggam.system.console import CONSOLE, PROGRESS

_COMPARED = 8


def export(
    run: Path,
    *,
    out: Path,
    format: Format = "onnx",
    map: bool = True,
    classes_input: Annotated[bool, Switch] = False,
    half: Annotated[bool, Switch] = False,
    image_size: int | None = None,
) -> None:
    """Write a trained model into one file that gives logits, probabilities and the heat map.

    What the file computes is compared with the model on 8 of the run's test pictures, or on generated
    noise where there are none; a file that differs is not kept.

    Args:
        run: A run directory or a model folder.
        out: The file to make; .onnx, or .pt2 for --format torch.
        format: onnx, or torch for torch.export.
        map: Compute the Grad-CAM heat map of the predicted class.
        classes_input: Have a second input, the class to explain (-1: the predicted one).
        half: Store weights in half precision: half the size, nearly the same numbers; ONNX only.
        image_size: Height and width of the pictures, in pixels; default: what the model was trained for.
    """
    model, origin = open_model(run)
    config = config_at(model.config, image_size)
    pictures = _test_pictures(origin, config.transform())
    kind = "test pictures" if pictures is not None else "generated pictures"
    if pictures is None:
        pictures = noise_pictures(config.image_size)
    with PROGRESS.status(f"exporting, and comparing on {len(pictures)} {kind}"):
        done = export_model(
            model,
            out,
            format=format,
            maps=map,
            classes_input=classes_input,
            half=half,
            image_size=image_size,
            pictures=pictures,
            accuracy=accuracy_of(origin),
        )
    if map and not done.maps:
        print(
            f"ggam: the Grad-CAM map of the method {config.method} has no closed form; exported without it",
            file=sys.stderr,
        )
    _print_export(done, kind)


def _print_export(done: Exported, kind: str) -> None:
    CONSOLE.print(f"{done.path}: {done.bytes / 1e6:.1f} MB")
    heat = f", of the map {done.difference.map:.0e}" if done.maps else "; no heat map"
    CONSOLE.print(f"compared with PyTorch on {done.pictures} {kind}: relative difference")
    CONSOLE.print(f"of the logits {done.difference.logits:.0e}{heat}")
    times = (1000 * seconds / done.pictures for seconds in (done.seconds, done.model_seconds))
    CONSOLE.print("ms per picture on the CPU: {:.1f}; PyTorch {:.1f}".format(*times))


def predict(
    model: str,
    images: Annotated[list[str], Parameter(negative="")],
    *,
    out: Path,
    top: int = 5,
    maps: Path | None = None,
    batch_size: int = 32,
    workers: int = 2,
) -> None:
    """Predict pictures into a table; the same command again goes on where it stopped.

    Pictures that cannot be read are passed over and listed in OUT.unreadable.csv; exit code 1 then.

    Args:
        model: A run directory, a model folder, or an .onnx file of ggam export.
        images: Pictures, folders with all below them, "quoted/*.jpg" patterns, or manifests (.csv,
            .parquet) with a column path.
        out: The table: .csv, .jsonl or .parquet.
        top: How many classes to list, with calibrated probabilities.
        maps: A folder for the heat map of each picture: overlay and raw.
        batch_size: Pictures at a time.
        workers: Processes that read pictures.
    """
    predictor = open_predictor(model)
    with _counter() as step:
        done = predict_files(
            predictor, images, out, top=top, maps=maps, batch_size=batch_size, workers=workers, on_batch=step
        )
    skipped = f", {done.skipped:,} were there already" if done.skipped else ""
    what = "picture" if done.predicted == 1 else "pictures"
    CONSOLE.print(f"{done.predicted:,} {what} predicted{skipped}: {out}")
    if done.unreadable:
        for path, reason in done.examples:
            print(f"ggam: {path}: {reason}", file=sys.stderr)
        more = done.unreadable - len(done.examples)
        rest = f"and {more:,} more; " if more else ""
        print(f"ggam: {rest}all that cannot be read: {done.unreadable_file}", file=sys.stderr)
        sys.exit(1)


def _test_pictures(run: Run | None, transform: ImageTransform) -> Tensor | None:
    """Some of the run's test pictures (N, 3, h, w), spread over the split; None if there are not two."""
    if run is None:
        return None
    try:
        test = run.dataset("test").with_transform(transform)
        spread = torch.linspace(0, len(test) - 1, min(_COMPARED, len(test))).int().tolist()
        pictures = [test[index][0] for index in spread]
    except DataError:
        return None
    return torch.stack(pictures) if len(pictures) > 1 else None


@contextmanager
def _counter() -> Iterator[Callable[[Summary], None]]:
    """How many pictures so far, and how fast: a line that changes on a terminal, and nothing elsewhere.

    How many there will be is not known: they are looked for while others are predicted.
    """
    columns = (SpinnerColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=PROGRESS, transient=True, disable=not PROGRESS.is_terminal) as bar:
        task = bar.add_task("", total=None, text="starting")

        def step(summary: Summary) -> None:
            seconds = bar.tasks[0].elapsed or 0
            rate = summary.predicted / seconds if seconds else 0
            skipped = f", {summary.skipped:,} passed over" if summary.skipped else ""
            bad = f", {summary.unreadable:,} unreadable" if summary.unreadable else ""
            bar.update(task, text=f"{summary.predicted:,} pictures, {rate:,.0f} per second{skipped}{bad}")

        yield step
