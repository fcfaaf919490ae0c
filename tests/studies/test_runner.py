"""A study's runs: each once, by several workers, and whatever happens to them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ggam.data.records import FineGrainedDataset
from ggam.evaluation.evaluate import evaluate
from ggam.methods.base import FineGrainedModel
from ggam.methods.baseline import BaselineOptions
from ggam.methods.ggam import GGAMOptions
from ggam.runs.run import Run
from ggam.studies.definition import Row, Study
from ggam.studies.queue import open_storage
from ggam.studies.runner import (
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
from ggam.training.run import RunConfig, fit
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
        self.storage = open_storage(f"journal:{out}/journal.log")
        self.started: list[str] = []

    def __call__(self, runs: list[PlannedRun], evaluator: Any = measure) -> None:
        claim_folder(self.data, runs[0].recipe, self.out)
        work(
            runs, self.data, self.out, self.storage, evaluator, on_start=self._start, on_wait=print, beat=0.2
        )

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
    assert planned(ggam={"guidance_weight": 2.0})[0].name == plain.name, "the plain network has no such option"
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
    (record,), _ = collect(runs, worker.out, worker.storage)
    (worker.out / "journal.log").unlink()
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
    records, failures = collect(runs, worker.out, worker.storage)
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
    records, failures = collect(runs, worker.out, worker.storage)
    assert [record.row for record in records] == ["SCG"]
    assert [(failure.row, failure.reason) for failure in failures] == [
        ("baseline", "RuntimeError: out of something")
    ]
    assert worker.started == [runs[0].name] * 2 + [runs[1].name]
    Worker(worker.data, worker.out)(runs)
    records, failures = collect(runs, worker.out, worker.storage)
    assert len(records) == 2 and not failures


def test_an_interrupted_worker_leaves_its_run_to_the_next(worker: Worker, squares: Path) -> None:
    def interrupts(model: FineGrainedModel, dataset: FineGrainedDataset, out: Path) -> Mapping[str, float]:
        raise Interrupted(signal.SIGINT)

    runs = planned()
    with pytest.raises(Interrupted):
        worker(runs, interrupts)
    assert collect(runs, worker.out, worker.storage) == ([], [])
    again = Worker(squares, worker.out)
    again(runs)
    assert again.started == [run.name for run in runs]


SCRIPT = """
import json, sys
import ggam
from pathlib import Path
from ggam.evaluation.evaluate import evaluate
from ggam.studies.definition import Row, Study
from ggam.studies.queue import open_storage
from ggam.studies.runner import plan, work
from ggam.training.recipe import Recipe
data, out, tiny, seeds = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
study = Study("one", "One row", (Row("SCG", "guided", {"method": "ggam"}),), "")
runs = plan(study, tiny, seeds)
work(runs, data, out, open_storage(f"journal:{out}/journal.log"),
     lambda model, test, folder: evaluate(model, test).summary(),
     on_start=lambda run, done, total: print("started", run.name, flush=True), on_wait=print, beat=2.0)
"""


def test_a_killed_workers_run_is_taken_over_from_its_last_checkpoint(squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    tiny = TINY | {"epochs": 25}
    runs = plan(Study("one", "", (Row("SCG", "", {"method": "ggam"}),), ""), tiny, 2)
    claim_folder(squares, runs[0].recipe, out)
    command = [sys.executable, "-c", SCRIPT, str(squares), str(out), json.dumps(tiny), "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def started(output: str) -> list[str]:
        return [line.split()[1] for line in output.splitlines() if line.startswith("started")]

    def start() -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)

    lost = out / RUNS / runs[0].name
    with start() as victim:
        until = time.monotonic() + 240
        while not (lost / "checkpoints/last.ckpt").exists() and time.monotonic() < until:
            time.sleep(0.02)
        with start() as survivor:
            victim.kill()
            said, _ = victim.communicate()
            trained = len((lost / "metrics.csv").read_text().splitlines()) - 1
            output, errors = survivor.communicate(timeout=240)
    assert started(said) == [lost.name]
    assert 0 < trained < 25, "killed in the middle of its run"
    assert survivor.returncode == 0, errors
    assert sorted(started(output)) == sorted(run.name for run in runs)

    records, failures = collect(runs, out, open_storage(f"journal:{out}/journal.log"))
    assert not failures
    taken = next(record for record in records if record.run == lost)
    epochs = (lost / "metrics.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in epochs] == list(range(1, 26))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers had: sums are added in another order otherwise
    alone = fit(RunConfig(squares, runs[0].recipe), Run(tmp_path / "alone"), measure)
    torch.set_num_threads(threads)
    assert alone is not None
    assert taken.metrics["loss"] == pytest.approx(alone.epochs["last"]["loss"], rel=1e-12), "the same weights"


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
