"""Runs the runs of a study: each once, by as many workers as are started, and takes up what was left.

The folder of a study holds `runs/NAME`, a run directory for each way to train and seed, shared by all
studies in it; `data.json`, what was trained on; the storage through which workers share the work; and a
folder of results for each study.
"""

import hashlib
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

from optuna.storages import BaseStorage

from ggam.data.layouts.registry import load_dataset
from ggam.data.records import FineGrainedDataset
from ggam.evaluation.evaluate import relative_path
from ggam.methods.base import FineGrainedModel
from ggam.runs.run import Results, Run, RunError
from ggam.studies.definition import Row, Study
from ggam.studies.queue import Claim, RunQueue
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
    storage: BaseStorage,
    evaluate: Evaluate,
    *,
    on_start: Callable[[PlannedRun, int, int], None],
    on_wait: Callable[[int], None],
    beat: float = 15.0,
) -> None:
    """Train whatever is open, until every run is finished or given up, here or by another worker.

    Args:
        runs: what the study consists of.
        data: the data set.
        out: the folder of the study.
        storage: shared with the other workers.
        evaluate: measures a model on the test pictures.
        on_start: called with a run, how many are finished, and how many there are.
        on_wait: called once each time only runs of other workers are left, with their number.
        beat: seconds between two signs of life.

    Raises:
        Interrupted: if a signal stopped it; nothing is lost.
    """
    by_name = {run.name: run for run in runs}
    names = list(by_name)
    queue = RunQueue(storage, _queue_name(out), beat=beat)
    waiting = False
    while pending := queue.pending(names):
        claim = queue.claim(pending)
        if claim is None:
            if not waiting:
                on_wait(len(pending))
            waiting = True
            time.sleep(beat)
            continue
        waiting = False
        on_start(by_name[claim.run], len(names) - len(pending), len(names))
        _attempt(claim, by_name[claim.run], data, Run(out / RUNS / claim.run), evaluate)


def collect(
    runs: Sequence[PlannedRun], out: Path, storage: BaseStorage
) -> tuple[list[RunRecord], list[Failure]]:
    """What has been measured so far, and what failed last and is not finished.

    Raises:
        StudyError: if a run was made with another recipe than it would be now.
    """
    queue = RunQueue(storage, _queue_name(out))
    results, reasons = queue.results(), queue.reasons()
    records, failures = [], []
    for run in runs:
        if run.name in results:
            found = results[run.name]
            _require_same(run, found["recipe"])
            records.append(_record(run, out / RUNS / run.name, Results.from_dict(found)))
        elif run.name in reasons:
            failures.append(Failure(run.row, run.seed, reasons[run.name]))
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
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
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


def _attempt(claim: Claim, run: PlannedRun, data: Path, place: Run, evaluate: Evaluate) -> None:
    """One attempt at a run: from its last checkpoint if there is one."""
    config = RunConfig(data, run.recipe)
    try:
        if not place.finished:
            resume = _resumable(config, place)
            if not resume:
                shutil.rmtree(place.folder, ignore_errors=True)
            with claim.kept_alive():
                fit(config, place, partial(_interruptibly, evaluate), resume=resume, read=True)
            shutil.rmtree(place.checkpoints, ignore_errors=True)  # the model folder is what is used
        results = place.read_results().to_dict()
        results["recipe"] = _deciding(RunConfig.read(place).recipe)
        _require_same(run, results["recipe"])
    except (Interrupted, StudyError):
        claim.release()
        raise
    except Exception as error:  # whatever it is, the other runs need not wait for it
        claim.fail(f"{type(error).__name__}: {' '.join(str(error).split())}")
    except BaseException:
        claim.release()
        raise
    else:
        claim.complete(results)


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


def _record(run: PlannedRun, folder: Path, results: Results) -> RunRecord:
    return RunRecord(
        row=run.row,
        seed=run.seed,
        run=folder,
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
    seed = recipe.machine.seed
    name = f"{recipe.model.method}-seed{seed}-{_digest(values)[:8]}"
    return PlannedRun(row.name, seed, recipe, name)


def _deciding(recipe: Recipe) -> dict[str, Any]:
    """The options that decide a run's result; of files, what is in them, wherever they lie."""
    flat = flat_options(recipe.to_dict())
    values = {name: value for name, value in flat.items() if name not in _NOT_THE_RESULT}
    if recipe.model.weights is not None:
        values["weights"] = _content(recipe.model.weights)
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


def _require_same(run: PlannedRun, made_with: Mapping[str, Any]) -> None:
    """Refuse a result of other defaults, as another version of this package may have had them.

    Raises:
        StudyError: naming the option.
    """
    now = _deciding(run.recipe)
    for name, value in made_with.items():
        if name in now and now[name] != value:
            raise StudyError(
                f"{RUNS}/{run.name}: was made with {name}={value}, which is {now[name]} now (a default has "
                "changed since); choose another --out, or spell out the old value"
            )


def _queue_name(out: Path) -> str:
    return f"ggam-{json.loads((out / DATA).read_text('utf-8'))['digest'][:16]}"


def _named(part: FineGrainedDataset) -> list[tuple[str, str, int]]:
    """Each picture's name, class and size in bytes."""
    return [
        (relative_path(sample.path, part.root), part.class_names[sample.label], sample.path.stat().st_size)
        for sample in part.samples
    ]


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
