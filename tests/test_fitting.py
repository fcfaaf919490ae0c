"""`ggam.fit`: what `ggam train` does, as one call, and what one does with the run."""

import csv
import importlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Run as CommandLine
from ggam.fitting import TrainedRun, fit
from ggam.methods.base import FineGrainedModel
from ggam.runs.run import RunError
from ggam.training import loop
from ggam.training.signals import Interrupted
from ggam.training.step import training_step

RECIPE: dict[str, Any] = {
    "backbone": "test_resnet",
    "pretrained": False,
    "image_size": 32,
    "epochs": 2,
    "batch_size": 6,
    "workers": 0,
    "accelerator": "cpu",
    "precision": "fp32",
    "ggam": {"guidance_weight": 0.5},
}


@pytest.fixture(scope="module")
def run(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    return fit(squares, out=tmp_path_factory.mktemp("fitted") / "run", **RECIPE)


def test_the_run_directory_is_that_of_the_command(
    run: TrainedRun, ggam: CommandLine, squares: Path, tmp_path: Path
) -> None:
    flags = "--backbone test_resnet --no-pretrained --image-size 32 --epochs 2 --batch-size 6 --workers 0"
    flags += " --accelerator cpu --precision fp32 --ggam.guidance-weight 0.5"
    code, _, complaints = ggam("train", squares, "--out", tmp_path / "run", *flags.split())
    assert (code, complaints) == (0, "")
    assert run.report_page.is_file() and run.card.is_file() and list(run.examples.iterdir())
    for name in ("config.yaml", "model/model.safetensors", "evaluation/best/predictions.csv"):
        assert (run.folder / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
    assert importlib.import_module("ggam").fit is fit


def test_what_one_does_with_a_run(run: TrainedRun, squares: Path, tmp_path: Path) -> None:
    assert isinstance(run.model, FineGrainedModel) and not run.model.training
    report = run.evaluate()
    assert report.top1 == run.read_results().chosen["top1"]
    assert run.evaluate(squares).predictions == report.predictions
    assert run.explain(torch.rand(2, 3, 32, 32)).maps.shape[0] == 2

    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    done = run.predict([squares / "test", tmp_path / "broken.jpg"])
    with (run.folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (len(rows), done.unreadable) == (12, 1)
    sure = {Path(p.path).parts[-2:]: p.probability for p in report.predictions}
    for row in rows:
        assert float(row["probability_1"]) == pytest.approx(sure[Path(row["path"]).parts[-2:]], rel=1e-3)
    exported = run.export(tmp_path / "model.onnx")
    assert exported.maps and exported.path.is_file()


def test_an_interrupted_call_goes_on(
    run: TrainedRun, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return training_step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", interrupted)
        with pytest.raises(Interrupted):
            fit(squares, out=tmp_path / "run", **RECIPE)
    again = fit(squares, out=tmp_path / "run", resume=True)
    for name in ("model/model.safetensors", "evaluation/best/predictions.csv"):
        assert (again.folder / name).read_bytes() == (run.folder / name).read_bytes()


def test_an_unsplit_folder_is_split_as_it_was_for_training(squares: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for file in (squares / split).glob("*/*.png"):
            (tmp_path / "data" / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / "data" / file.parent.name / f"{split}-{file.name}")
    run = fit(tmp_path / "data", out=tmp_path / "run", **{**RECIPE, "epochs": 1, "seed": 3})
    assert run.evaluate(tmp_path / "data").predictions == run.evaluate().predictions


def test_it_measures_in_the_runs_own_precision(squares: Path, tmp_path: Path) -> None:
    run = fit(squares, out=tmp_path / "run", **{**RECIPE, "epochs": 1, "precision": "bf16"})
    assert run.evaluate().loss == run.read_results().chosen["loss"]


def test_resuming_on_other_data_is_refused(run: TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="but data changed; start a new run"):
        fit(tmp_path, out=run.folder, resume=True)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"epoch": 3}, "recipe has no option 'epoch': did you mean epochs?"),
        ({"guidance_weight": 3}, "did you mean ggam: {guidance_weight: …}?"),
        ({"method": "senet", "ggam": {}}, "ggam: options of the method ggam"),
        ({"lr": "fast"}, "lr='fast': expected float"),
        ({"epochs": 2.5}, "epochs=2.5: expected int"),
        ({"epochs": True}, "epochs=True: expected int"),
        ({"clip": "1"}, "clip='1': expected float or none"),
        ({"ggam": {"reduction": None}}, "reduction=None: expected int"),
        ({"precision": "fp16"}, "precision=fp16: expected one of"),
    ],
)
def test_what_cannot_be_is_refused_before_there_is_a_run(
    squares: Path, tmp_path: Path, recipe: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as refusal:
        fit(squares, out=tmp_path / "run", **recipe)
    assert message in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_what_has_no_influence_may_change_on_the_way(run: TrainedRun, squares: Path) -> None:
    before = (run.model_folder / "model.safetensors").read_bytes()
    fit(squares, out=run.folder, resume=True, workers=1)
    assert (run.model_folder / "model.safetensors").read_bytes() == before
    with pytest.raises(RunError, match=r"but ggam.guidance_weight: 0.5 → 2.0 changed"):
        fit(squares, out=run.folder, resume=True, ggam={"guidance_weight": 2.0})


def test_a_run_is_never_overwritten(run: TrainedRun, squares: Path) -> None:
    with pytest.raises(RunError, match="is not empty"):
        fit(squares, out=run.folder, **RECIPE)
