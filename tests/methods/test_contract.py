"""What holds for every method, those of the package and some that were made to break it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ggam import create_model, explain, load_dataset, load_model, save_model
from ggam.deploy.export import export_model
from ggam.deploy.predictor import OnnxPredictor, TorchPredictor, open_predictor
from ggam.equations.gradcam import gradcam_weights
from ggam.evaluation.evaluate import evaluate
from ggam.methods.base import FineGrainedModel, Stage
from ggam.methods.registry import METHODS
from ggam.report.panels import explain_files
from ggam.runs.run import Run
from ggam.training import loop
from ggam.training.recipe import Recipe
from ggam.training.run import RunConfig, build_model, fit
from ggam.training.signals import Interrupted
from ggam.training.step import build_optimizer, training_step
from toys import TOYS, registered

CASES = [*METHODS, *TOYS]
every_method = pytest.mark.parametrize("method", CASES)
SIDE = 32


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[None]:
    with registered():
        yield


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def build(method: str, temperature: float = 1.0) -> FineGrainedModel:
    """One whose norms are as after some training."""
    torch.manual_seed(0)
    model = create_model("test_resnet", class_names=("blue", "green", "red"), method=method, **NO_WEIGHTS)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    model.config = replace(model.config, temperature=temperature)
    return model.eval()


NO_WEIGHTS: dict[str, Any] = {"pretrained": False, "image_size": SIDE}
RECIPE: dict[str, Any] = {
    "backbone": "test_resnet",
    "pretrained": False,
    "image_size": SIDE,
    "epochs": 2,
    "batch_size": 6,
    "lr": 0.05,
    "backbone_lr": 0.02,
    "workers": 0,
    "accelerator": "cpu",
    "precision": "fp32",
}


def measure(model: FineGrainedModel, dataset: Any, out: Path) -> dict[str, float | int]:
    report = evaluate(model, dataset)
    report.write(out)
    return report.summary()


def configure(data: Path, method: str, **changes: Any) -> RunConfig:
    return RunConfig(data, Recipe.from_dict({**RECIPE, "method": method, **changes}))


def checkpoint(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def assert_equal(first: Any, second: Any) -> None:
    """Nested states, bit for bit."""
    if isinstance(first, Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for name in first:
            assert_equal(first[name], second[name])
    else:
        assert first == second


@every_method
def test_all_answers_come_from_one_forward_pass(method: str, squares: Path, tmp_path: Path) -> None:
    model = build(method, temperature=1.7)
    with torch.no_grad():
        logits = model(images()).logits
    probabilities = (logits / 1.7).softmax(dim=1)
    explained = explain(model, images())
    torch.testing.assert_close(explained.logits, logits)

    predicted = TorchPredictor(model, device=torch.device("cpu")).predict(images())
    np.testing.assert_allclose(predicted.logits, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(predicted.probabilities, probabilities, rtol=1e-5, atol=1e-7)
    assert predicted.maps is not None
    np.testing.assert_allclose(predicted.maps, explained.maps, rtol=1e-4, atol=1e-6)

    save_model(model, tmp_path / "model")
    torch.testing.assert_close(load_model(tmp_path / "model")(images()).logits, logits)

    test = load_dataset(squares, split="test").with_transform(model.config.transform())
    stacked = torch.stack([test[index][0] for index in range(len(test))])
    with torch.no_grad():
        wanted = (model(stacked).logits / 1.7).softmax(dim=1).amax(dim=1)
    for maps in (False, True):
        sure = [prediction.probability for prediction in evaluate(model, test, maps=maps).predictions]
        assert sure == pytest.approx(wanted.tolist(), rel=1e-4)
    panels, _ = explain_files(model, [s.path for s in test.samples[:2]], tmp_path / "panels", top=1)
    assert [panel.classes[0].probability for panel in panels] == pytest.approx(wanted[:2].tolist(), rel=1e-4)


@every_method
def test_the_exported_file_answers_as_the_model(method: str, tmp_path: Path) -> None:
    model = build(method, temperature=1.7)
    exported = export_model(model, tmp_path / "model.onnx", pictures=images())
    file = open_predictor(tmp_path / "model.onnx")
    assert isinstance(file, OnnxPredictor) and exported.maps is (file.maps != "none")
    with torch.no_grad():
        logits = model(images()).logits
    found = file.predict(images())
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.probabilities, (logits / 1.7).softmax(dim=1), rtol=1e-4, atol=1e-6)
    assert exported.maps is model.has_closed_form
    if found.maps is not None:
        np.testing.assert_allclose(found.maps, explain(model, images()).maps, rtol=1e-3, atol=1e-6)


@every_method
@pytest.mark.parametrize("at", ["attended", "features"])
def test_grad_cam_equals_autograd(method: str, at: Any) -> None:
    model = build(method)
    output, classes, weights = model.gradcam(images(), at=at)
    recorded = model(images())
    place = recorded.features if at == "features" else recorded.attended
    wanted = gradcam_weights(recorded.logits, place, classes)
    torch.testing.assert_close(weights, wanted, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(output.logits, recorded.logits)


@every_method
def test_what_rests_is_bit_equal_after_a_stage(
    method: str, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, momentum and running statistics, with accumulation; both before and after they moved."""
    stages = (Stage(), Stage(learns=("classifier",)), Stage())
    monkeypatch.setattr(METHODS[method], "stages", lambda self: stages)
    kept: list[dict[str, Any]] = []

    def write(path: Path, state: dict[str, Any]) -> None:
        loop_write(path, state)
        if path.name == "last.ckpt":
            kept.append(torch.load(path, weights_only=True))

    loop_write = loop.write_checkpoint
    monkeypatch.setattr(loop, "write_checkpoint", write)
    config = configure(squares, method, epochs=3, accumulate=2, val_fraction=0.0)
    fit(config, Run(tmp_path / "run"), measure)
    model = build_model(config.recipe, ("blue", "green", "red"))
    optimizer, _ = build_optimizer(model, config.recipe.optimization, 1)
    order = {id(p): i for i, p in enumerate(p for g in optimizer.param_groups for p in g["params"])}
    resting = [name for name in model.state_dict() if not name.startswith("classifier.")]
    first, second, third = kept
    for name in resting:
        assert torch.equal(first["model"][name], second["model"][name]), name
    moved = {name for name in resting if not torch.equal(second["model"][name], third["model"][name])}
    assert any("running_" in name for name in moved) and any("weight" in name for name in moved)
    assert not torch.equal(first["model"]["classifier.1.weight"], second["model"]["classifier.1.weight"])
    for name, parameter in model.named_parameters():
        if name in resting:
            before, after = (
                state["optimizer"]["state"].get(order[id(parameter)]) for state in (first, second)
            )
            assert_equal(before, after)


@every_method
@pytest.mark.parametrize("step", [3, 7])
def test_a_resumed_run_is_bit_equal(
    method: str, step: int, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(squares, method)
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
    model.epoch, model.stage = 1, len(model.stages()) - 1
    terms = list(model.losses(images(), torch.tensor([0, 1, 2, 0])))
    assert terms[0] == "classification"
    assert list(last)[:2] == ["epoch", "loss"] and set(terms) <= set(last)
    assert float(last["loss"]) == pytest.approx(sum(float(last[name]) for name in terms), rel=1e-4)
    rates = [f"{group.name}_lr" if group.name else "lr" for group in model.parameter_groups()]
    assert set(rates) <= set(last)


RANKS = """
import json, os, sys, warnings
from pathlib import Path
import ggam
import torch
from ggam.data.records import hold_out
from ggam.methods.base import Stage
from ggam.methods.registry import METHODS
from ggam.runs.run import Run
from ggam.training.loop import Loop, build_fabric
from ggam.training.recipe import Recipe
from ggam.training.run import RunConfig, build_model, load_parts, prepare_model, with_transforms
from lightning.fabric.utilities.seed import seed_everything
from toys import registered

data, out, devices, recipe = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
with registered():
    fabric = None
    for method in sys.argv[5:]:
        # Statistics that stay, so that a batch's parts do not depend on which device has them.
        everything = METHODS[method].stages
        METHODS[method].stages = lambda self: (
            Stage(learns=("classifier",), frozen_statistics=("",)), Stage(frozen_statistics=("",)))
        config = RunConfig(data, Recipe.from_dict({**recipe, "method": method, "devices": devices}))
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
        METHODS[method].stages = lambda self: (Stage(learns=("classifier",)),)  # norms in train mode
        Loop(config.recipe, model, train, val, Run(out / f"{method}-{devices}-rest"), fabric).run()
        METHODS[method].stages = everything
        moved = [n for n, value in model.state_dict().items() if not torch.equal(value, before[n])]
        (out / f"{method}-{devices}-{fabric.global_rank}.json").write_text(json.dumps(moved))
"""


@pytest.fixture(scope="module")
def ranks(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every method trained by one process, and by two."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "train.py"
    script.write_text(RANKS)
    tests = str(Path(__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": tests, "PYTHONWARNINGS": "ignore"}
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
@pytest.mark.parametrize("place", ["1-0", "2-0", "2-1"])
def test_what_rests_stays_on_every_rank(method: str, place: str, ranks: Path) -> None:
    moved = json.loads((ranks / f"{method}-{place}.json").read_text())
    assert "classifier.1.weight" in moved and "classifier.0.running_mean" in moved
    assert all(name.startswith("classifier.") for name in moved)


def test_an_option_reaches_its_own_method_only(ggam: Any, squares: Path, tmp_path: Path) -> None:
    assert "warmup" in {option.name for option in fields(METHODS["ggam"].Options)}
    recipe = Recipe.from_dict({"method": "colliding", "colliding": {"warmup": 3}})
    assert vars(recipe.options) == {"warmup": 3}
    model = create_model("test_resnet", 3, method="colliding", warmup=3, **NO_WEIGHTS)
    assert model.config.options == {"warmup": 3}
    assert Recipe.from_dict({"method": "ggam"}).options.warmup == 0
