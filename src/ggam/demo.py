"""The demo: birds that differ in one small part, a plain network and GGAM, and a page that compares them."""

import os
import shutil
import sys
import webbrowser
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from rich.console import Console

from ggam.data.birds.dataset import synthesize
from ggam.data.layouts.registry import load_dataset
from ggam.data.records import FineGrainedDataset
from ggam.data.sheet import class_sheet
from ggam.evaluation.evaluate import evaluate
from ggam.evaluation.localization import localize_maps
from ggam.report import ComparisonEntry, write_comparison
from ggam.runs.run import Run
from ggam.system.devices import default_device
from ggam.training.recipe import Recipe
from ggam.training.run import Evaluate, RunConfig, fit

CLASSES = 8
TRAIN_PER_CLASS = 60
TEST_PER_CLASS = 25
METHODS = {"baseline": "plain network", "ggam": "GGAM network"}
MARKER = ".ggam-demo"


class DemoError(ValueError):
    """The demo's folder holds something else."""


def run_demo(
    out: Path,
    console: Console,
    evaluator: Evaluate,
    progress: Callable[[str], AbstractContextManager[Callable[[int, int], None]]],
    *,
    open_page: bool,
) -> Path:
    """Draw birds, train both networks, compare them on one page.

    Args:
        out: the folder to work in; an earlier demo in it is replaced.
        console: where the steps are told.
        evaluator: measures a model at the end of its training.
        progress: shows how far something that takes a while is.
        open_page: open the page in the browser.

    Returns:
        The page.

    Raises:
        DemoError: if `out` holds something that no demo made.
    """
    _clear(out)
    birds = out / "birds"
    count = CLASSES * (TRAIN_PER_CLASS + TEST_PER_CLASS)
    console.print(f"[bold]1/4[/] drawing {count} birds of {CLASSES} species")
    with progress("drawing") as advance:
        synthesize(
            birds,
            classes=CLASSES,
            train_per_class=TRAIN_PER_CLASS,
            test_per_class=TEST_PER_CLASS,
            image_size=160,
            progress=advance,
        )
    values = recipe()
    for step, (method, name) in enumerate(METHODS.items(), start=2):
        console.print(f"[bold]{step}/4[/] training the {name} from scratch, {values['epochs']} epochs")
        fit(RunConfig(birds, Recipe.from_dict({**values, "method": method})), Run(out / method), evaluator)
    console.print("[bold]4/4[/] looking where they look")
    page = _compare(out, load_dataset(birds, split="test"))
    console.print(f"[bold]{page}[/]")
    if open_page and _has_display():
        webbrowser.open(page.resolve().as_uri())
    return page


def recipe() -> dict[str, Any]:
    """How both networks are trained: `recipes/birds.yaml`."""
    return yaml.safe_load(resources.files("ggam.data.birds").joinpath("recipe.yaml").read_text("utf-8"))


def _has_display() -> bool:
    """Whether a browser would be a window; without one, webbrowser may take over the terminal."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _clear(out: Path) -> None:
    """Make the folder anew, unless it holds something that is not ours."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / MARKER).is_file():
            raise DemoError(f"{out} is there already and no demo made it: choose another folder with --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


def _compare(out: Path, test: FineGrainedDataset) -> Path:
    entries: list[ComparisonEntry] = []
    for method, name in METHODS.items():
        trained = Run(out / method)
        model = trained.read_model()
        shown = test.with_transform(model.config.transform())
        report = evaluate(model, shown, device=default_device(), maps=True)
        assert report.maps is not None
        localization = localize_maps(torch.from_numpy(report.maps), shown)
        seconds = trained.read_results().training_seconds
        entries.append(ComparisonEntry(name, model, report, localization, seconds))
    sheet = out / "birds.png"
    class_sheet(test, sheet)
    run = out / "ggam"
    return write_comparison(
        out / "index.html",
        entries,
        test.with_transform(entries[0].model.config.transform()),
        title="Which bird, and how does it know?",
        subject="bird",
        sheet=Image.open(sheet),
        commands=[
            (f"ggam explain {run} {test.root / 'images'} --out panels", "what this model sees in each bird"),
            ("ggam train PHOTOS --out runs/mine", "the paper's recipe on photographs of your own"),
            ("ggam train --help", "every option, explained"),
        ],
    )
