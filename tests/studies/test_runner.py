"""A study's runs: each once, by several workers, and whatever happens to them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from filelock import FileLock

from ggam.data.records import FineGrainedDataset
from ggam.evaluation.evaluate import evaluate
from ggam.methods.base import FineGrainedModel
from ggam.methods.baseline import BaselineOptions
from ggam.methods.ggam import GGAMOptions
from ggam.studies.conclusion import ROUNDS, measure_rows
from ggam.studies.definition import Row, Study
from ggam.studies.runner import (
    ATTEMPTS,
    RUNS,
    PlannedRun,
    StudyError,
    claim_folder,
    collect,
    combine,
    plan,
    work,
)
from ggam.training.recipe import Recipe
from ggam.training.signals import Interrupted

TINY: dict[str, Any] = {
    "backbone": "test_resnet",
    "pretrained": False,
    "image_size": 32,
    "epochs": 2,
    "batch_size": 6,
    "lr": 0.05,
    "backbone_lr": 0.02,
    "val_fraction": 0.0,
    "workers": 0,
    "accelerator": "cpu",
    "precision": "fp32",
}
STUDY = Study(
    "pair",
    "Two rows",
    (
        Row("baseline", "plain", {"method": "baseline"}),
        Row("SCG", "guided", {"method": "ggam"}, references=("baseline",)),
    ),
    "Is one better?",
)


def measure(model: FineGrainedModel, dataset: FineGrainedDataset, out: Path) -> Mapping[str, float]:
    return evaluate(model, dataset).summary()


def planned(seeds: int = 1, **changes: Any) -> list[PlannedRun]:
    return plan(STUDY, TINY | changes, seeds)


class Worker:
    """A study's worker in this process that remembers what it started."""

    def __init__(self, data: Path, out: Path) -> None:
        self.data, self.out = data, out
        self.started: list[str] = []
        self.waited: list[int] = []

    def __call__(self, runs: list[PlannedRun], evaluator: Any = measure) -> None:
        claim_folder(self.data, runs[0].recipe, self.out)
        told = {"on_start": self._start, "on_wait": self.waited.append}
        work(runs, self.data, self.out, evaluator, **told, patience=0.1)

    def lock(self, run: PlannedRun) -> FileLock:
        """What another worker holds while it is at a run."""
        return FileLock(self.out / RUNS / f"{run.name}.lock", thread_local=False)

    def _start(self, run: PlannedRun, done: int, total: int) -> None:
        assert 0 <= done < total
        self.started.append(run.name)


@pytest.fixture
def worker(squares: Path, tmp_path: Path) -> Worker:
    out = tmp_path / "study"
    claim_folder(squares, Recipe.from_dict(TINY), out)
    return Worker(squares, out)


def test_a_plan_pairs_the_seeds_of_all_rows() -> None:
    runs = planned(seeds=2, seed=5)
    assert [(run.row, run.seed) for run in runs] == [
        ("baseline", 5),
        ("SCG", 5),
        ("baseline", 6),
        ("SCG", 6),
    ]
    assert len({run.name for run in runs}) == 4
    assert [run.recipe.machine.seed for run in runs] == [5, 5, 6, 6]


def test_a_run_is_known_by_what_decides_its_result() -> None:
    (plain, guided) = planned()
    assert planned(workers=3)[1].name == guided.name
    assert planned(cache="here")[1].name == planned(cache="there")[1].name != guided.name
    assert planned(epochs=3)[1].name != guided.name
    assert planned(ggam={"guidance_weight": 2.0})[1].name != guided.name
    assert planned(ggam={"guidance_weight": 2.0})[0].name == plain.name, (
        "the plain network has no such option"
    )
    assert planned(ggam={"guidance_weight": 1.0})[1].name == guided.name, "as it is by default"


def test_weights_count_by_their_content(tmp_path: Path) -> None:
    for folder, content in (("here", "a"), ("there", "a"), ("elsewhere", "b")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").write_text(content)
    here, there, elsewhere = (
        planned(weights=str(tmp_path / folder / "model.safetensors"))[0].name
        for folder in ("here", "there", "elsewhere")
    )
    assert here == there != elsewhere
    with pytest.raises(StudyError, match="cannot be read"):
        planned(weights=str(tmp_path / "nowhere.safetensors"))


def test_a_result_of_another_default_is_refused(worker: Worker) -> None:
    runs = planned()[:1]
    worker(runs)
    (record,), _ = collect(runs, worker.out)
    config = record.run / "config.yaml"
    config.write_text(config.read_text().replace("momentum: 0.9", "momentum: 0.8"))
    with pytest.raises(StudyError, match=r"momentum=0\.8, which is 0\.9 now"):
        Worker(worker.data, worker.out)(runs)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_evaluation_leaves_the_run_to_the_next(
    worker: Worker, squares: Path, signum: signal.Signals
) -> None:
    def signalled(model: FineGrainedModel, dataset: FineGrainedDataset, out: Path) -> Mapping[str, float]:
        os.kill(os.getpid(), signum)
        time.sleep(1)
        raise AssertionError("not stopped")

    runs = planned()[:1]
    with pytest.raises(Interrupted) as caught:
        worker(runs, signalled)
    assert caught.value.signum == signum
    again = Worker(squares, worker.out)
    again(runs)
    assert again.started == [run.name for run in runs]


def test_options_of_other_methods_fall_away() -> None:
    options = TINY | {"ggam": {"preset": "paper"}, "senet": {"placement": "last"}}
    assert combine(options, STUDY.rows[1], 0).options == GGAMOptions(preset="paper")
    assert combine(options, STUDY.rows[0], 0).options == BaselineOptions()
    senet = Row("senet", "SENet", {"method": "senet"})
    assert combine(options, senet, 0).options.placement == "last"


def test_a_row_changes_its_own_options_and_keeps_the_studys_others() -> None:
    row = Row("SG", "guided", {"method": "ggam", "ggam": {"channel": False}})
    found = combine(TINY | {"ggam": {"preset": "paper", "channel": True}}, row, 3)
    assert found.options == GGAMOptions(preset="paper", channel=False)
    assert found.machine.seed == 3


def test_every_run_is_trained_once_and_recorded(worker: Worker, squares: Path) -> None:
    runs = planned()
    worker(runs)
    assert worker.started == [run.name for run in runs]
    records, failures = collect(runs, worker.out)
    assert not failures
    assert [(record.row, record.seed, record.epochs) for record in records] == [
        ("baseline", 0, 2),
        ("SCG", 0, 2),
    ]
    for record in records:
        results = json.loads((record.run / "results.json").read_text())
        assert record.metrics["top1"] == results["last"]["top1"]
        assert record.pictures == {"train": 36, "val": 0, "test": 12}
        assert "last epoch" in record.protocol
        assert (record.run / "model/model.safetensors").is_file()
        assert not (record.run / "checkpoints").exists()
    again = Worker(squares, worker.out)
    again(runs)
    assert again.started == []
    more = planned(seeds=2)
    again(more)
    assert again.started == [run.name for run in more[2:]]


def test_a_broken_run_is_retried_told_and_does_not_stop_the_others(worker: Worker) -> None:
    def breaks(model: FineGrainedModel, dataset: FineGrainedDataset, out: Path) -> Mapping[str, float]:
        if model.config.method == "baseline":
            raise RuntimeError("out of\nsomething")
        return measure(model, dataset, out)

    runs = planned()
    worker(runs, breaks)
    records, failures = collect(runs, worker.out)
    assert [record.row for record in records] == ["SCG"]
    assert [(failure.row, failure.reason) for failure in failures] == [
        ("baseline", "RuntimeError: out of something")
    ]
    assert worker.started == [runs[0].name] * ATTEMPTS + [runs[1].name]
    again = Worker(worker.data, worker.out)
    again(runs)
    assert again.started == [runs[0].name], "a command started anew tries again"
    records, failures = collect(runs, worker.out)
    assert len(records) == 2 and not failures
    assert not list(worker.out.glob("runs/*.failure.txt"))


def test_a_run_that_cannot_be_built_is_told_as_well(worker: Worker) -> None:
    runs = planned(backbone="no_such_network")[:1]
    worker(runs)
    _, (failure,) = collect(runs, worker.out)
    assert failure.reason.startswith("BackboneError: ")


def test_a_locked_run_is_left_to_its_worker_and_awaited(worker: Worker) -> None:
    runs = planned()
    held = worker.lock(runs[0])
    held.acquire()

    def frees(model: FineGrainedModel, dataset: FineGrainedDataset, out: Path) -> Mapping[str, float]:
        threading.Timer(0.5, held.release).start()
        return measure(model, dataset, out)

    worker(runs, frees)
    assert worker.started == [runs[1].name, runs[0].name]
    assert worker.waited == [1], "told once, however often it looked"


def test_a_run_that_another_worker_has_finished_is_not_awaited(worker: Worker) -> None:
    runs = planned()[:1]
    with worker.lock(runs[0]):
        place = worker.out / RUNS / runs[0].name
        place.mkdir()
        threading.Timer(0.3, (place / "results.json").touch).start()
        worker(runs)
    assert worker.started == []


def test_a_lock_file_that_no_process_holds_blocks_nobody(worker: Worker) -> None:
    runs = planned()[:1]
    (worker.out / RUNS).mkdir()
    Path(worker.lock(runs[0]).lock_file).write_text("123\nelsewhere\n")
    worker(runs)
    assert (worker.started, worker.waited) == ([runs[0].name], [])


def test_a_copied_folder_has_the_results_wherever_the_weights_lay(worker: Worker, tmp_path: Path) -> None:
    weights, moved = tmp_path / "weights.pth", tmp_path / "moved.pth"
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), weights)
    runs = planned(weights=str(weights))[:1]
    worker(runs)
    (record,), failures = collect(runs, worker.out)
    weights.rename(moved)
    copy = shutil.copytree(worker.out, tmp_path / "copy")
    shutil.rmtree(worker.out)
    again = Worker(worker.data, copy)
    runs = planned(weights=str(moved))[:1]
    again(runs)
    assert again.started == []
    assert collect(runs, copy) == ([replace(record, run=copy / RUNS / runs[0].name)], failures)


@pytest.mark.parametrize("stop", [Interrupted(signal.SIGINT), KeyboardInterrupt()])
def test_an_interrupted_worker_leaves_its_run_to_the_next(
    worker: Worker, squares: Path, stop: BaseException
) -> None:
    def interrupts(model: FineGrainedModel, dataset: FineGrainedDataset, out: Path) -> Mapping[str, float]:
        raise stop

    runs = planned()
    with pytest.raises(type(stop)):
        worker(runs, interrupts)
    assert (worker.out / RUNS / runs[0].name / "checkpoints/last.ckpt").is_file(), "to go on from"
    assert collect(runs, worker.out) == ([], [])
    again = Worker(squares, worker.out)
    again(runs)
    assert again.started == [run.name for run in runs]


SCRIPT = """
import json, sys
import ggam
from pathlib import Path
from ggam.evaluation.evaluate import evaluate
from ggam.studies.definition import Row, Study
from ggam.studies.runner import claim_folder, plan, work
data, out, tiny, seeds = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
study = Study("one", "One row", (Row("SCG", "guided", {"method": "ggam"}),), "")
runs = plan(study, tiny, seeds)
claim_folder(data, runs[0].recipe, out)
work(runs, data, out, lambda model, test, folder: evaluate(model, test).summary(),
     on_start=lambda run, done, total: print("started", run.name, flush=True),
     on_wait=lambda count: None, patience=0.1)
"""


def start(data: Path, out: Path, seeds: int, **changes: Any) -> "subprocess.Popen[str]":
    """A worker in a process of its own that says which runs it starts."""
    command = [sys.executable, "-c", SCRIPT, str(data), str(out), json.dumps(TINY | changes), str(seeds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def started_by(process: "subprocess.Popen[str]", code: int = 0) -> list[str]:
    """The runs that a worker started, once it has ended with that code."""
    output, errors = process.communicate(timeout=240)
    assert process.returncode == code, errors
    return [line.split()[1] for line in output.splitlines() if line.startswith("started")]


@pytest.mark.slow
def test_processes_started_at_once_share_the_runs(squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    with start(squares, out, 6, epochs=1) as first, start(squares, out, 6, epochs=1) as second:
        started = started_by(first) + started_by(second)
    assert len(started) == len(set(started)) == 6
    assert len(list(out.glob("runs/*/results.json"))) == 6


def test_a_killed_workers_run_is_taken_over_from_its_last_checkpoint(squares: Path, tmp_path: Path) -> None:
    epochs = 12
    runs = plan(Study("one", "", (Row("SCG", "", {"method": "ggam"}),), ""), TINY | {"epochs": epochs}, 1)
    lost, undisturbed = (tmp_path / out / RUNS / runs[0].name for out in ("study", "undisturbed"))
    with start(squares, tmp_path / "undisturbed", 1, epochs=epochs) as alone:
        with start(squares, tmp_path / "study", 1, epochs=epochs) as victim:
            while victim.poll() is None and not (lost / "checkpoints/last.ckpt").exists():
                time.sleep(0.01)
            victim.kill()
            assert started_by(victim, -signal.SIGKILL) == [lost.name]
        trained = (lost / "metrics.csv").read_text().splitlines()[1:]
        assert 0 < len(trained) < epochs, "killed in the middle of its run"
        with start(squares, tmp_path / "study", 1, epochs=epochs) as survivor:
            assert started_by(survivor) == started_by(alone) == [lost.name]
    rows = (lost / "metrics.csv").read_text().splitlines()[1:]
    assert rows[: len(trained)] == trained, "not trained anew"
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, epochs + 1))
    weights = "model/model.safetensors"
    assert (lost / weights).read_bytes() == (undisturbed / weights).read_bytes()
    (taken,), (whole,) = (collect(runs, tmp_path / out)[0] for out in ("study", "undisturbed"))
    assert taken.metrics == whole.metrics


def test_of_workers_that_end_at_once_one_measures_the_costs(worker: Worker) -> None:
    runs = planned(epochs=1)
    worker(runs)
    rounds: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        ends = [
            pool.submit(measure_rows, STUDY, runs, worker.out, lambda done, total: rounds.append(done))
            for _ in range(2)
        ]
    assert [end.result() for end in ends] == [None, None]
    assert rounds == list(range(1, ROUNDS + 1))


def test_a_folder_holds_runs_on_one_data_set(worker: Worker, squares: Path, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer"
    shutil.copytree(squares, fewer)
    (fewer / "train/red/0.png").unlink()
    with pytest.raises(StudyError, match="holds runs on squares"):
        claim_folder(fewer, Recipe.from_dict(TINY), worker.out)
    moved = tmp_path / "moved"
    shutil.copytree(squares, moved)
    claim_folder(moved, Recipe.from_dict(TINY), worker.out)


def test_a_folder_that_no_study_made_is_left_alone(squares: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StudyError, match="no study made it"):
        claim_folder(squares, Recipe.from_dict(TINY), tmp_path)


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(StudyError, match="at least 1"):
        planned(seeds=0)
    with pytest.raises(StudyError, match="once for each device"):
        planned(devices=2)
