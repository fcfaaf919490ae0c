"""What the training of every method has in common: what rests, what is resumed, what ranks agree on."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from every_method import (
    CASES,
    RECIPE,
    assert_equal,
    build,
    checkpoint,
    configure,
    every_method,
    heads,
    images,
    measure,
)
from ggam.methods.base import Stage
from ggam.methods.registry import METHODS
from ggam.runs.run import Run
from ggam.training import loop
from ggam.training.recipe import Recipe
from ggam.training.run import build_model, fit
from ggam.training.signals import Interrupted
from ggam.training.step import build_optimizer, training_step
from toys import registered


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[None]:
    with registered():
        yield


@every_method
def test_what_rests_is_bit_equal_after_a_stage(
    method: str, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, momentum and running statistics, with accumulation; both before and after they moved."""
    config = configure(squares, method, epochs=3, accumulate=2, val_fraction=0.0)
    model = build_model(config.recipe, ("blue", "green", "red"))
    stages = (Stage(), Stage(learns=heads(model)), Stage())
    monkeypatch.setattr(METHODS[method], "stages", lambda self: stages)
    kept: list[dict[str, Any]] = []

    def write(path: Path, state: dict[str, Any]) -> None:
        loop_write(path, state)
        if path.name == "last.ckpt":
            kept.append(torch.load(path, weights_only=True))

    loop_write = loop.write_checkpoint
    monkeypatch.setattr(loop, "write_checkpoint", write)
    fit(config, Run(tmp_path / "run"), measure)
    optimizer, _ = build_optimizer(model, config.recipe.optimization, 1)
    order = {id(p): i for i, p in enumerate(p for g in optimizer.param_groups for p in g["params"])}
    learning = tuple(f"{name}." for name in heads(model))
    resting = [name for name in model.state_dict() if not name.startswith(learning)]
    first, second, third = kept
    for name in resting:
        assert torch.equal(first["model"][name], second["model"][name]), name
    moved = {name for name in resting if not torch.equal(second["model"][name], third["model"][name])}
    assert any("running_" in name for name in moved) and any("weight" in name for name in moved)
    trained = [name for name, _ in model.named_parameters() if name.startswith(learning)]
    assert any(not torch.equal(first["model"][name], second["model"][name]) for name in trained)
    for name, parameter in model.named_parameters():
        if name in resting:
            before, after = (
                state["optimizer"]["state"].get(order[id(parameter)]) for state in (first, second)
            )
            assert_equal(before, after)


@every_method
@pytest.mark.parametrize(("step", "precision"), [(1, "bf16"), (3, "fp32")])
def test_a_resumed_run_is_bit_equal(
    method: str, step: int, precision: str, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(squares, method, precision=precision, train_per_class=6)
    fit(config, Run(tmp_path / "whole"), measure)
    steps = 0

    def step_with_signal(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", step_with_signal)
        with pytest.raises(Interrupted):
            fit(config, Run(tmp_path / "run"), measure)
    fit(config, Run(tmp_path / "run"), measure, resume=True)
    whole, resumed = (checkpoint(tmp_path / name) for name in ("whole", "run"))
    assert_equal({**whole, "elapsed": 0}, {**resumed, "elapsed": 0})
    rows = [Run(tmp_path / name).read_epochs() for name in ("whole", "run")]
    assert [{**row, "seconds": ""} for row in rows[0]] == [{**row, "seconds": ""} for row in rows[1]]


@every_method
def test_the_columns_of_the_log_are_the_names_of_the_terms(
    method: str, squares: Path, tmp_path: Path
) -> None:
    fit(configure(squares, method), Run(tmp_path / "run"), measure)
    last = Run(tmp_path / "run").read_epochs()[-1]
    model = build(method).train()
    model.epoch, model.training_stage = 1, len(model.stages()) - 1
    terms = list(model.losses(images(), torch.tensor([0, 1, 2, 0])))
    assert list(last)[:2] == ["epoch", "loss"] and set(terms) <= set(last)
    assert float(last["loss"]) == pytest.approx(sum(float(last[name]) for name in terms), rel=1e-4)
    rates = [f"{group.name}_lr" if group.name else "lr" for group in model.parameter_groups()]
    assert set(rates) <= set(last)


RANKS = """
import json, os, sys, warnings
from pathlib import Path
import ggam
import torch
from ggam.evaluation.evaluate import evaluate
from ggam.methods.base import Stage
from ggam.methods.registry import METHODS
from ggam.runs.run import Run
from ggam.training.loop import Loop, build_fabric
from ggam.training.recipe import Recipe
from ggam.training.run import RunConfig, build_model, load_parts, prepare_model, with_transforms
from lightning.fabric.utilities.seed import seed_everything
from toys import registered

def heads(model):
    return tuple(n for n, part in model.named_children() if n != "backbone" and list(part.parameters()))

data, out, devices, recipe = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
with registered():
    fabric = None
    for method in sys.argv[5:]:
        # Statistics that stay, so that a batch's parts do not depend on which device has them.
        everything = METHODS[method].stages
        METHODS[method].stages = lambda self: (
            Stage(learns=heads(self), frozen_statistics=("",)), Stage(frozen_statistics=("",)))
        own = {"method": method, "devices": devices, "val_fraction": 0.25}
        config = RunConfig(data, Recipe.from_dict({**recipe, **own}))
        train, val, _ = load_parts(config)
        if fabric is None:
            fabric = build_fabric(config.recipe)
            fabric.launch()
        seed_everything(0, verbose=False)
        model = build_model(config.recipe, train.class_names)
        plain = train
        train, val = with_transforms(model, train, val)
        run = Run(out / f"{method}-{devices}")
        if fabric.is_global_zero:
            run.start()
        fabric.barrier()
        loop = Loop(config.recipe, model, train, val, run, fabric)
        prepare_model(model, plain, config.recipe, fabric)
        loop.run()
        torch.save(model.state_dict(), out / f"{method}-{devices}-{fabric.global_rank}.pt")
        before = {name: value.clone() for name, value in model.state_dict().items()}
        METHODS[method].stages = lambda self: (Stage(learns=heads(self)),)  # norms in train mode
        loop = Loop(config.recipe, model, train, val, Run(out / f"{method}-{devices}-rest"), fabric)
        loop.run()
        METHODS[method].stages = everything
        moved = [n for n, value in model.state_dict().items() if not torch.equal(value, before[n])]
        torch.save(model.state_dict(), out / f"{method}-{devices}-{fabric.global_rank}-rest.pt")
        measured, report = loop.validate(), evaluate(model.eval(), val)
        (out / f"{method}-{devices}-{fabric.global_rank}.json").write_text(json.dumps(
            {"heads": heads(model), "moved": moved, "pictures": len(val), **measured,
             "top1": report.top1, "loss": report.loss}))
"""


@pytest.fixture(scope="module")
def ranks(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every method trained by one process, and by two."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "train.py"
    script.write_text(RANKS)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONWARNINGS": "ignore",
    }
    for devices in (1, 2):
        command = [sys.executable, script, squares, folder, devices, json.dumps(RECIPE), *CASES]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env=environment, timeout=280, check=False
        )
        assert done.returncode == 0, done.stderr
    return folder


@every_method
def test_two_ranks_equal_one(method: str, ranks: Path) -> None:
    one, first, second = (
        torch.load(ranks / f"{method}-{place}.pt", weights_only=True) for place in ("1-0", "2-0", "2-1")
    )
    start = build_model(Recipe.from_dict({**RECIPE, "method": method}), ("blue", "green", "red")).state_dict()
    assert any(not torch.equal(one[name], start[name]) for name in one if name.startswith("backbone."))
    for name in one:
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], one[name], rtol=1e-3, atol=1e-4)


@every_method
@pytest.mark.parametrize("devices", [1, 2])
def test_what_rests_stays_on_every_rank_and_the_ranks_agree(method: str, devices: int, ranks: Path) -> None:
    places = [f"{method}-{devices}-{rank}" for rank in range(devices)]
    for place in places:
        found = json.loads((ranks / f"{place}.json").read_text())
        assert {name.split(".")[-1] for name in found["moved"]} >= {"weight", "running_mean"}
        assert all(name.startswith(tuple(f"{head}." for head in found["heads"])) for name in found["moved"])
    first, *others = (torch.load(ranks / f"{place}-rest.pt", weights_only=True) for place in places)
    for other in others:
        assert_equal(first, other)


@pytest.mark.parametrize("devices", [1, 2])
def test_validation_over_several_processes_is_that_of_one(devices: int, ranks: Path) -> None:
    found = [json.loads((ranks / f"ggam-{devices}-{rank}.json").read_text()) for rank in range(devices)]
    assert found[0]["pictures"] % 2 == 1, "the uneven case is the one that goes wrong"
    for measured in found:
        assert measured["val_accuracy"] == pytest.approx(measured["top1"])
        assert measured["val_loss"] == pytest.approx(measured["loss"], rel=1e-5)
        assert measured["val_loss"] == found[0]["val_loss"]


@pytest.mark.parametrize("method", METHODS)
def test_the_command_resumes_every_method(method: str, ggam: Any, squares: Path, tmp_path: Path) -> None:
    flags = "--backbone test_resnet --no-pretrained --image-size 32 --epochs 1 --batch-size 6 --workers 0"
    run = tmp_path / "run"
    assert ggam("train", squares, "--out", run, "--method", method, *flags.split())[::2] == (0, "")
    Run(run).results_file.unlink()  # as if it had been killed while it measured
    assert ggam("train", "--out", run, "--resume")[::2] == (0, "")
    again = ggam("train", squares, "--out", tmp_path / "again", "--config", run / "config.yaml")
    assert again[::2] == (0, "")
    first, second = (Run(tmp_path / name).model_folder / "model.safetensors" for name in ("run", "again"))
    assert first.read_bytes() == second.read_bytes()
