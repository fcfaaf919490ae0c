"""Runs the runs of a study: each once, by as many workers as are started, and takes up what was left.

The folder of a study holds `runs/NAME`, a run directory for each way to train and seed, shared by all
studies in it; `data.json`, what was trained on; and a folder of results for each study. A worker holds the
lock `runs/NAME.lock` while it is at a run. The operating system takes the lock from a process that dies, so
that its run is open at once, and no worker has to judge whether another is alive.
"""

import hashlib
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from ggam.data.layouts.registry import load_dataset
from ggam.data.records import FineGrainedDataset
from ggam.evaluation.evaluate import relative_path
from ggam.methods.base import FineGrainedModel
from ggam.runs.run import Run, RunError
from ggam.studies.definition import Row, Study
from ggam.studies.records import Failure, RunRecord
from ggam.system.files import write_atomic
from ggam.training.recipe import ModelRecipe, Recipe, flat_options, for_method
from ggam.training.run import (
    Evaluate,
    RunConfig,
    find_checkpoint,
    fit,
    require_readable,
)
from ggam.training.signals import Interrupted

RUNS = "runs"
DATA = "data.json"
ATTEMPTS = 2
"""How often a worker lets a run fail before it leaves it."""
_NOT_THE_RESULT = {"workers", "cache", "accelerator", "devices", "nodes", "compile"}
"""Options that do not make another run of it."""
_COUNTS = {"epoch", "pictures", "classes"}
"""What stands beside the measures in the results of a run."""


class StudyError(ValueError):
    """A study that cannot be made in this folder, or with this recipe."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study."""

    row: str
    seed: int
    recipe: Recipe
    name: str
    """Of its folder: the method, the seed, and a digest of the recipe, so that equal runs are one."""


def plan(study: Study, options: Mapping[str, Any], seeds: int) -> list[PlannedRun]:
    """Every row with every seed, the first seed of all rows first.

    Args:
        study: the rows.
        options: common to all, as `Recipe.from_dict` reads them; their own seed is the first.
        seeds: how many.

    Raises:
        ValueError: if the recipe does not go with a row.
        StudyError: for a recipe that wants several devices for one run.
    """
    devices, nodes = options.get("devices", 1), options.get("nodes", 1)
    if devices * nodes > 1:
        raise StudyError(
            f"--devices {devices} --nodes {nodes}: a study trains each run on one device; "
            "start it once for each device (CUDA_VISIBLE_DEVICES=0, 1, …), and they share the runs"
        )
    if seeds < 1:
        raise StudyError(f"--seeds {seeds}: expected at least 1")
    return [
        _planned(row, combine(options, row, options.get("seed", 0) + offset))
        for offset in range(seeds)
        for row in study.rows
    ]


def combine(options: Mapping[str, Any], row: Row, seed: int) -> Recipe:
    """The study's options with what a row changes; those of other methods fall away."""
    values = {**options, **row.options, "seed": seed}
    method = values["method"]
    if method in options or method in row.options:
        values[method] = {**options.get(method, {}), **row.options.get(method, {})}
    return Recipe.from_dict(for_method(values, method))


def work(
    runs: Sequence[PlannedRun],
    data: Path,
    out: Path,
    evaluate: Evaluate,
    *,
    on_start: Callable[[PlannedRun, int, int], None],
    on_wait: Callable[[int], None],
    patience: float = 15.0,
) -> None:
    """Train whatever is open, until every run is finished, by whichever worker, or given up here.

    Args:
        runs: what the study consists of.
        data: the data set.
        out: the folder of the study, shared with the other workers.
        evaluate: measures a model on the test pictures.
        on_start: called with a run, how many need no work any more, and how many there are.
        on_wait: called once each time only runs of other workers are left, with their number.
        patience: seconds from one look for an open run to the next.

    Raises:
        Interrupted: if a signal stopped it; nothing is lost.
        StudyError, RunError: as `collect` says.
    """
    collect(runs, out)  # refuses now, not after days, what it will not show at the end
    tries = {run.name: 0 for run in runs}
    by_name = {run.name: run for run in runs}
    waiting = False
    while left := [
        run for run in by_name.values() if tries[run.name] < ATTEMPTS and not _place(run, out).finished
    ]:
        for run in left:
            with suppress(Timeout), FileLock(_beside(run, out, "lock"), timeout=0):
                if not _place(run, out).finished:  # by another worker, while this one was looking
                    tries[run.name] += 1
                    on_start(run, len(by_name) - len(left), len(by_name))
                    _attempt(run, data, out, evaluate)
                waiting = False
                break
        else:
            if not waiting:
                on_wait(len(left))
            waiting = True
            time.sleep(patience)


def collect(runs: Sequence[PlannedRun], out: Path) -> tuple[list[RunRecord], list[Failure]]:
    """What has been measured so far, and what failed and is not finished.

    Raises:
        StudyError: if a run was made with another recipe than it would be now.
        RunError: if a finished run's files are damaged.
    """
    records, failures = [], []
    for run in runs:
        if _place(run, out).finished:
            records.append(_record(run, _place(run, out)))
            continue
        with suppress(FileNotFoundError):
            reason = _beside(run, out, "failure.txt").read_text("utf-8").strip()
            failures.append(Failure(run.row, run.seed, reason))
    return records, failures


def claim_folder(data: Path, recipe: Recipe, out: Path) -> None:
    """Make the folder one of studies on this data set, having read all of its pictures once.

    Raises:
        StudyError: if it holds runs on other data, or something that no study made.
        DataError: if the data cannot be read.
    """
    parts = [
        load_dataset(data, split=split, layout=recipe.data.layout, seed=0) for split in ("train", "test")
    ]
    digest = _digest([[part.split, sorted(_named(part))] for part in parts])
    file = out / DATA
    if file.is_file():
        known = json.loads(file.read_text("utf-8"))
        if known["digest"] != digest:
            raise StudyError(
                f"{out}: holds runs on {known['name']}, other pictures than {data}; choose another --out"
            )
        return
    # A worker that was started at the same time may be writing the file just now, beside its place.
    if out.is_file() or any(path.name != DATA for path in out.glob("[!.]*")):
        raise StudyError(f"{out}: is there already and no study made it; choose another --out")
    require_readable(*parts)
    counts = {part.split: len(part) for part in parts}
    known = {
        "name": data.resolve().name,
        "classes": len(parts[0].class_names),
        "pictures": counts,
        "digest": digest,
    }
    write_atomic(file, json.dumps(known, indent=2, ensure_ascii=False) + "\n")


def _place(run: PlannedRun, out: Path) -> Run:
    return Run(out / RUNS / run.name)


def _beside(run: PlannedRun, out: Path, kind: str) -> Path:
    """A file about a run that is not of it: its folder is as `ggam train` would make it."""
    return out / RUNS / f"{run.name}.{kind}"


def _attempt(run: PlannedRun, data: Path, out: Path, evaluate: Evaluate) -> None:
    """One attempt at a run: from its last checkpoint if there is one."""
    config, place, failure = RunConfig(data, run.recipe), _place(run, out), _beside(run, out, "failure.txt")
    try:
        resume = _resumable(config, place)
        if not resume:
            shutil.rmtree(place.folder, ignore_errors=True)
        fit(config, place, partial(_interruptibly, evaluate), resume=resume, read=True)
    except Interrupted:
        raise
    except Exception as error:  # whatever it is, the other runs need not wait for it
        write_atomic(failure, f"{type(error).__name__}: {' '.join(str(error).split())}\n")
    else:
        shutil.rmtree(place.checkpoints, ignore_errors=True)  # the model folder is what is used
        failure.unlink(missing_ok=True)


def _resumable(config: RunConfig, place: Run) -> bool:
    """Whether the folder holds the beginning of this very run."""
    if not place.config_file.is_file():
        return False
    try:
        find_checkpoint(config, place, resume=True)
    except RunError:
        return False
    return True


def _interruptibly(
    evaluate: Evaluate, model: FineGrainedModel, dataset: FineGrainedDataset, out: Path
) -> Mapping[str, float]:
    """Evaluate, and stop at a signal as training does."""
    with interruptible():
        return evaluate(model, dataset, out)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` on SIGINT and SIGTERM; while a run trains, it handles them itself."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    previous = {signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _record(run: PlannedRun, place: Run) -> RunRecord:
    """A finished run.

    Raises:
        StudyError, RunError: as `collect` says.
    """
    results = place.read_results()
    _require_same(run, RunConfig.read(place).recipe)
    return RunRecord(
        row=run.row,
        seed=run.seed,
        run=place.folder,
        protocol=results.protocol,
        metrics={name: value for name, value in results.chosen.items() if name not in _COUNTS},
        training_seconds=results.training_seconds,
        epochs=run.recipe.optimization.epochs,
        pictures=results.pictures,
    )


def _planned(row: Row, recipe: Recipe) -> PlannedRun:
    default = flat_options(Recipe(model=ModelRecipe(method=recipe.model.method)).to_dict())
    # Without what is left at its default, so that a new option does not make old runs other ones.
    values = {name: value for name, value in _deciding(recipe).items() if value != default.get(name)}
    values["method"] = recipe.model.method
    if recipe.model.weights is not None:  # what is in the file, wherever it lies
        values["weights"] = _content(recipe.model.weights)
    seed = recipe.machine.seed
    name = f"{recipe.model.method}-seed{seed}-{_digest(values)[:8]}"
    return PlannedRun(row.name, seed, recipe, name)


def _deciding(recipe: Recipe) -> dict[str, Any]:
    """The options that decide a run's result."""
    flat = flat_options(recipe.to_dict())
    values = {name: value for name, value in flat.items() if name not in _NOT_THE_RESULT}
    if recipe.data.cache is not None:  # crops of resized pictures differ a little from resized crops
        values["cache"] = True
    return values


@cache
def _content(file: Path) -> str:
    """The digest of a file.

    Raises:
        StudyError: if it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise StudyError(f"--weights {file}: cannot be read ({error.strerror})") from error


def _require_same(run: PlannedRun, made_with: Recipe) -> None:
    """Refuse a result of other defaults, as another version of this package may have had them.

    Raises:
        StudyError: naming the option.
    """
    now = _deciding(run.recipe)
    for name, value in _deciding(made_with).items():
        # The run's name tells what is in a file of weights; where it lay then does not matter.
        if name != "weights" and value != now.get(name):
            raise StudyError(
                f"{RUNS}/{run.name}: was made with {name}={value}, which is {now.get(name)} now (a default "
                "has changed since); choose another --out, or spell out the old value"
            )


def _named(part: FineGrainedDataset) -> list[tuple[str, str, int]]:
    """Each picture's name, class and size in bytes."""
    return [
        (relative_path(sample.path, part.root), part.class_names[sample.label], sample.path.stat().st_size)
        for sample in part.samples
    ]


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
