import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ggam
from conftest import write_class_folders
from ggam.data.records import DataError, FineGrainedDataset
from ggam.evaluation.evaluate import evaluate
from ggam.methods.base import FineGrainedModel
from ggam.runs.run import Results, Run, RunError
from ggam.system.devices import DeviceError
from ggam.training import loop
from ggam.training.loop import require_devices, write_checkpoint
from ggam.training.recipe import Recipe
from ggam.training.run import RunConfig, fit as fit_run
from ggam.training.signals import Interrupted
from ggam.training.step import TrainingDiverged, training_step

TINY: dict[str, Any] = {
    "backbone": "test_resnet",
    "pretrained": False,
    "image_size": 32,
    "epochs": 2,
    "batch_size": 6,
    "lr": 0.05,
    "backbone_lr": 0.02,
    "workers": 0,
    "accelerator": "cpu",
    "precision": "fp32",
}


def measure(model: FineGrainedModel, dataset: FineGrainedDataset, out: Path) -> Mapping[str, float]:
    report = evaluate(model, dataset)
    report.write(out)
    return report.summary()


def fit(config: RunConfig, run: Path, evaluate: Any, *, resume: bool = False) -> Results | None:
    return fit_run(config, Run(run), evaluate, resume=resume)


def configure(data: Path, **changes: Any) -> RunConfig:
    return RunConfig(data, Recipe.from_dict(TINY | changes))


def weights(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["model"]


def assert_same_weights(first: Path, second: Path) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert fit(configure(squares), run, measure) is not None
    return run


def test_a_run_directory_holds_all_that_is_promised(finished: Path, squares: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert results["selected"] == "best"
    assert results["last"]["epoch"] == 2
    assert results["best"]["epoch"] in (1, 2)
    assert results["pictures"] == {"train": 33, "val": 3, "test": 12}
    assert "held out" in results["protocol"]
    assert [row["epoch"] for row in rows(finished)] == ["1", "2"]
    for row in rows(finished):
        assert all(float(value) >= 0 for value in row.values())
    assert RunConfig.read(Run(finished)) == configure(squares)
    assert list((finished / "tensorboard").glob("events.out.tfevents*"))

    model = ggam.load_model(finished / "model")
    assert not model.training
    assert model.config.class_names == ("blue", "green", "red")
    chosen = torch.load(finished / "checkpoints/best.ckpt", weights_only=True)["model"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, chosen[name])


def test_the_same_seed_gives_the_same_weights_whatever_the_workers(
    finished: Path, squares: Path, tmp_path: Path
) -> None:
    fit(configure(squares, workers=1), tmp_path / "again", measure)
    assert_same_weights(finished, tmp_path / "again")


def test_another_seed_gives_other_weights(finished: Path, squares: Path, tmp_path: Path) -> None:
    fit(configure(squares, seed=1), tmp_path / "other", measure)
    name = "classifier.1.weight"
    assert not torch.equal(weights(finished)[name], weights(tmp_path / "other")[name])


def signal_before(step: int, signum: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process receive a signal while the given batch of the run is trained on."""
    started = 0

    def step_with_signal(fabric: Any, trained: Any, batches: Any) -> Any:
        nonlocal started
        if started <= step < started + len(batches):
            os.kill(os.getpid(), signum)
        started += len(batches)
        return training_step(fabric, trained, batches)

    monkeypatch.setattr(loop, "training_step", step_with_signal)


@pytest.mark.parametrize(
    ("step", "signum"), [(2, signal.SIGTERM), (4, signal.SIGINT), (7, signal.SIGTERM), (9, signal.SIGINT)]
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(
    finished: Path,
    squares: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    signum: int,
) -> None:
    run = tmp_path / "stopped"
    before = signal.getsignal(signum)
    with monkeypatch.context() as patch:
        signal_before(step, signum, patch)
        if step == 9:  # the last step of the run: there is nothing left to stop
            fit(configure(squares), run, measure)
        else:
            with pytest.raises(Interrupted) as stopped:
                fit(configure(squares), run, measure)
            assert stopped.value.signum == signum
            assert not (run / "results.json").exists()
    assert signal.getsignal(signum) == before
    if step != 9:
        fit(configure(squares), run, measure, resume=True)

    assert_same_weights(finished, run)
    assert [row["epoch"] for row in rows(run)] == ["1", "2"]
    for row, whole in zip(rows(run), rows(finished), strict=True):
        assert {**row, "seconds": ""} == {**whole, "seconds": ""}  # the means over the steps included
    assert (run / "model/model.safetensors").read_bytes() == (
        finished / "model/model.safetensors"
    ).read_bytes()


def test_a_killed_run_goes_on_from_its_last_epoch(finished: Path, squares: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    script = f"""
import os, signal, sys
sys.path[:0] = {[str(path) for path in Path(__file__).parents[:2]]!r}
import test_run as t
from pathlib import Path
with t.pytest.MonkeyPatch.context() as patch:
    t.signal_before(7, signal.SIGKILL, patch)
    t.fit(t.configure(Path({str(squares)!r})), Path({str(run)!r}), t.measure)
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(rows(run)) == 1

    fit(configure(squares), run, measure, resume=True)
    assert_same_weights(finished, run)


def test_resuming_a_finished_run_changes_nothing(finished: Path, squares: Path, tmp_path: Path) -> None:
    before = {name: (finished / name).read_bytes() for name in ("checkpoints/last.ckpt", "results.json")}
    results = fit(configure(squares), finished, measure, resume=True)
    assert results is not None
    assert results.epochs["last"]["epoch"] == 2
    assert results.training_seconds > 0
    assert {name: (finished / name).read_bytes() for name in before} == before


def test_a_run_that_was_killed_in_its_first_epoch_starts_again(
    finished: Path, squares: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "config.yaml", tmp_path / "run")
    fit(configure(squares), tmp_path / "run", measure, resume=True)
    assert_same_weights(finished, tmp_path / "run")


def test_a_full_disk_between_the_best_and_the_last_checkpoint(
    finished: Path, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, written = tmp_path / "full", []

    def save(path: Path, state: dict[str, Any]) -> None:
        written.append(path.name)
        if written.count("last.ckpt") == 2:
            raise OSError(28, "No space left on device")
        write_checkpoint(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_checkpoint", save)
        with pytest.raises(OSError, match="No space left"):
            fit(configure(squares), run, measure)
    fit(configure(squares), run, measure, resume=True)
    assert_same_weights(finished, run)
    best, whole = (torch.load(r / "checkpoints/best.ckpt", weights_only=True) for r in (run, finished))
    assert best["epoch"] == whole["epoch"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, {"epoch": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        write_checkpoint(path, {"epoch": lambda: 2})
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_resuming_needs_neither_the_pretrained_weights_nor_the_working_directory(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, run = tmp_path / "start.pt", tmp_path / "run"
    start = ggam.create_model("test_resnet", num_classes=2, pretrained=False, image_size=32)
    torch.save(start.backbone.body.get_submodule("model").state_dict(), file)
    monkeypatch.chdir(squares.parent)
    with monkeypatch.context() as patch:
        signal_before(2, signal.SIGTERM, patch)
        with pytest.raises(Interrupted):
            fit(configure(Path(squares.name), weights=str(file)), run, measure)
    file.unlink()
    monkeypatch.chdir(tmp_path)
    stored = RunConfig.read(Run(run))
    assert stored.data == squares
    assert fit(stored, run, measure, resume=True) is not None


def test_a_stop_waits_for_the_accumulated_batches(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(squares, accumulate=2, epochs=1)
    fit(config, tmp_path / "whole", measure)
    with monkeypatch.context() as patch:
        signal_before(2, signal.SIGTERM, patch)  # the first of the second pair
        with pytest.raises(Interrupted):
            fit(config, tmp_path / "stopped", measure)
    state = torch.load(tmp_path / "stopped/checkpoints/last.ckpt", weights_only=True)
    assert state["trained"] == 4
    fit(config, tmp_path / "stopped", measure, resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_is_never_overwritten(finished: Path, squares: Path) -> None:
    with pytest.raises(RunError, match="is not empty: continue it with --resume"):
        fit(configure(squares), finished, measure)


def test_a_resumed_run_must_be_the_same_run(finished: Path, squares: Path) -> None:
    with pytest.raises(RunError, match=r"lr: 0\.05 → 0\.5 changed; start a new run"):
        fit(configure(squares, lr=0.5), finished, measure, resume=True)


def test_there_must_be_something_to_resume(squares: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        fit(configure(squares), tmp_path / "nothing", measure, resume=True)


def test_a_loss_that_is_not_a_number_stops_the_run(squares: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingDiverged,
        match=r"the term 'classification' of the loss is (nan|inf) in epoch \d, step \d; the learning rates",
    ):
        fit(configure(squares, lr=1e18, backbone_lr=1e18, epochs=4), tmp_path / "diverged", measure)


def test_without_validation_the_last_epoch_is_chosen(squares: Path, tmp_path: Path) -> None:
    few = configure(squares, val_fraction=0.0, epochs=1, train_per_class=5)
    results = fit(few, tmp_path / "paper", measure)
    assert results is not None
    assert results.selected == "last"
    assert "best" not in results.epochs
    assert "the paper's protocol); at most 5 training pictures per class" in results.protocol
    assert not (tmp_path / "paper/checkpoints/best.ckpt").exists()


def test_accumulated_batches_make_one_step(squares: Path, tmp_path: Path) -> None:
    fit(configure(squares, accumulate=5, epochs=1, clip=1.0), tmp_path / "slow", measure)
    state = torch.load(tmp_path / "slow/checkpoints/last.ckpt", weights_only=True)
    assert state["schedule"]["last_epoch"] == 1  # one step of the optimiser


def test_the_last_batches_of_an_epoch_are_averaged_over_as_many_as_there_are(
    squares: Path, tmp_path: Path
) -> None:
    for accumulate in (5, 8):
        fit(configure(squares, accumulate=accumulate, epochs=1), tmp_path / str(accumulate), measure)
    even, short = weights(tmp_path / "5"), weights(tmp_path / "8")
    for name in even:
        torch.testing.assert_close(short[name], even[name], rtol=1e-5, atol=1e-7)


def test_an_error_of_a_decoding_process_is_one_line(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(squares, broken)
    for path in (broken / "train/red").iterdir():
        path.write_bytes(b"gone after the check")
    monkeypatch.setattr("ggam.training.run.require_readable", lambda *parts: None)
    with pytest.raises(DataError) as refusal:
        fit(configure(broken, workers=1), tmp_path / "run", measure)
    assert "Traceback" not in str(refusal.value) and "\n" not in str(refusal.value)
    assert str(refusal.value).startswith(str(broken / "train/red"))


def test_one_picture_of_each_class_trains_without_validation(tmp_path: Path) -> None:
    data = write_class_folders(tmp_path / "few", train=1, test=1)
    results = fit(configure(data, epochs=1), tmp_path / "run", measure)
    assert results is not None
    assert results.selected == "last"
    assert results.pictures == {"train": 3, "val": 0, "test": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator": "cuda"}, "accelerator 'cuda' is not on this machine"),
        ({"devices": 5, "batch_size": 10}, "3 validation pictures for 5 devices"),
        ({"devices": 20, "batch_size": 40}, "33 training pictures in batches of 20 on 20 devices"),
    ],
)
def test_what_the_machine_or_the_data_cannot_give_is_refused_before_there_is_a_run(
    squares: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if "accelerator" in changes and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=message):
        fit(configure(squares, **changes), tmp_path / "run", measure)
    assert not (tmp_path / "run").exists()


def test_more_gpus_than_there_are() -> None:
    require_devices(torch.device("cpu"), 64)
    with pytest.raises(DeviceError, match="--devices 99: this machine has"):
        require_devices(torch.device("cuda"), 99)


def test_a_file_in_the_way_of_the_run(squares: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunError, match="is a file: expected a folder"):
        fit(configure(squares), tmp_path / "run", measure)
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("line", ["lr: fast", "lrr: 0.1", "precision: fp16", "nonsense", "data: [1"])
def test_a_damaged_configuration_is_named(finished: Path, tmp_path: Path, line: str) -> None:
    text = (finished / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(f"{text}{line}\n")
    with pytest.raises(RunError) as refusal:
        RunConfig.read(Run(tmp_path))
    assert str(tmp_path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_training_works_outside_the_main_thread(squares: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(fit, configure(squares, epochs=1), tmp_path / "run", measure).result() is not None


def test_unreadable_pictures_are_named_before_training(squares: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(squares, broken)
    (broken / "train/red/0.png").write_bytes(b"no picture")
    (broken / "test/blue/1.png").write_bytes(b"")
    with pytest.raises(DataError) as refusal:
        fit(configure(broken), tmp_path / "run", measure)
    assert "red/0.png" in str(refusal.value)
    assert "blue/1.png" in str(refusal.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_backbone_trains_to_the_same_weights(squares: Path, tmp_path: Path) -> None:
    changes = {"epochs": 1, "lr": 1e-3, "backbone_lr": 1e-3}
    for name, compiled in (("eager", False), ("compiled", True)):
        fit(configure(squares, compile=compiled, **changes), tmp_path / name, measure)
    eager, compiled = weights(tmp_path / "eager"), weights(tmp_path / "compiled")
    assert compiled.keys() == eager.keys()
    for name in eager:
        torch.testing.assert_close(compiled[name], eager[name], rtol=0.01, atol=1e-3)
