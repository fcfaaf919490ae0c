"""`ggam data check` and `ggam data synthesize`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from ggam.commands.options import Switch
from ggam.data.birds.dataset import PRESETS, synthesize as draw
from ggam.data.doctor.check import check_dataset, render
from ggam.system.console import CONSOLE, progress


def check(data: Path, *, layout: str | None = None, json: Annotated[bool, Switch] = False) -> None:
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


def synthesize(
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
        count = draw(
            out,
            **PRESETS.get(preset or "", {}) | given,
            seed=seed,
            background_bias=background_bias,
            occlusion=occlusion,
            progress=step,
        )
    CONSOLE.print(f"{count:,} pictures: {out}")
