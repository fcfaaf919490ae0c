"""Two processes over gloo: the ranks agree, and measure what one process measures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import ggam  # before lightning, see ggam.system.torchvision_hook
import torch
from lightning.fabric.utilities.seed import seed_everything
from ggam.evaluation.evaluate import evaluate
from ggam.runs.run import Run
from ggam.training.loop import Loop, build_fabric
from ggam.training.recipe import Recipe
from ggam.training.run import RunConfig, build_model, load_parts, with_transforms

data, run = Path(sys.argv[1]), Path(sys.argv[2])
recipe = Recipe.from_dict(dict(
    backbone="test_resnet", pretrained=False, image_size=32, epochs=1, batch_size=4, lr=0.05,
    backbone_lr=0.02, workers=0, accelerator="cpu", precision="fp32", devices=2, val_fraction=0.25,
))
train, val, _ = load_parts(RunConfig(data, recipe))
fabric = build_fabric(recipe)
fabric.launch()
seed_everything(0, verbose=False)
model = build_model(recipe, train.class_names)
train, val = with_transforms(model, train, val)
Run(run).start()
loop = Loop(recipe, model, train, val, Run(run), fabric)
loop.run()
measured = loop.validate()
state = {name: value.clone() for name, value in model.state_dict().items()}
torch.save(state, run / f"rank{fabric.global_rank}.pt")
report = evaluate(model.cpu().eval(), val)
(run / f"rank{fabric.global_rank}.json").write_text(json.dumps(
    {"ranks": fabric.world_size, "pictures": len(val), "accuracy": measured["val_accuracy"],
     "loss": measured["val_loss"], "top1": report.top1, "true_loss": report.loss}
))
"""


@pytest.fixture(scope="module")
def run(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddp")
    script = folder / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(squares), str(folder)]
    # More threads than cores would have the two processes wait for each other.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def measured(run: Path, rank: int) -> dict[str, float]:
    return json.loads((run / f"rank{rank}.json").read_text())


def test_ranks_end_with_the_same_weights(run: Path) -> None:
    first, second = (torch.load(run / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert any("running_" in name for name in first)
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_accuracy_over_two_processes_is_that_of_one(run: Path) -> None:
    first, second = measured(run, 0), measured(run, 1)
    assert first["ranks"] == 2
    assert first["pictures"] % 2 == 1, "the uneven case is the one that goes wrong"
    assert (first["accuracy"], first["loss"]) == (second["accuracy"], second["loss"])
    assert first["accuracy"] == pytest.approx(first["top1"])
    assert first["loss"] == pytest.approx(first["true_loss"], rel=1e-5)
