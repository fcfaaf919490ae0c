"""What holds for every method, those of the package and some that were made to break it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ggam import create_model, explain, load_dataset, load_model, save_model
from ggam.commands import options
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

CASES = [*METHODS, *(name for name in TOYS if name != "colliding")]
every_method = pytest.mark.parametrize("method", CASES)
SIDE, LARGE = 32, 96
"""Of the pictures that are trained on, and of those whose maps must be larger than one cell."""


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[None]:
    with registered():
        yield


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, LARGE, LARGE, generator=torch.Generator().manual_seed(1))


def build(method: str, temperature: float = 1.0) -> FineGrainedModel:
    """One whose norms are as after some training."""
    torch.manual_seed(0)
    model = create_model(
        "test_resnet", class_names=("blue", "green", "red"), method=method, pretrained=False, image_size=LARGE
    )
    assert min(model.features(images(1))["last"].shape[2:]) > 1  # else T, pooling and D say nothing
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    model.config = replace(model.config, temperature=temperature)
    return model.eval()


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


def heads(model: nn.Module) -> tuple[str, ...]:
    """What a method adds to the backbone, by the names of its modules."""
    return tuple(n for n, part in model.named_children() if n != "backbone" and list(part.parameters()))


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
def test_an_answer_depends_on_the_weights_alone(method: str) -> None:
    """Not on where the training stood, which a model folder does not keep."""
    model = build(method)
    wanted = model(images()).logits
    for model.epoch, model.training_stage in ((1, 0), (7, 1)):
        assert torch.equal(model(images()).logits, wanted)


@every_method
@pytest.mark.parametrize("at", ["attended", "features"])
def test_grad_cam_under_autocast_is_as_exact_as_its_features(method: str, at: Any) -> None:
    """Behind the backbone everything is in float32, the backward pass too."""
    model = build(method)
    with torch.autocast("cpu", torch.bfloat16):
        output, classes, weights = model.gradcam(images(), at=at)
        recorded = model(images())
        torch.testing.assert_close(recorded.logits, output.logits)
    place = recorded.features if at == "features" else recorded.attended
    wanted = gradcam_weights(recorded.logits, place, classes)
    assert float((weights - wanted).norm() / wanted.norm()) < 1e-4


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
@pytest.mark.parametrize(("step", "precision"), [(3, "bf16"), (7, "fp32")])
def test_a_resumed_run_is_bit_equal(
    method: str, step: int, precision: str, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(squares, method, precision=precision)
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


def test_an_option_reaches_its_own_method_only(
    ggam: Any, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: options.show_options_of("ggam"))  # behind what undoes the next but one line
    assert "warmup" in {option.name for option in fields(METHODS["ggam"].Options)}
    monkeypatch.setattr(options, "WITH_OPTIONS", {**options.WITH_OPTIONS, "colliding": METHODS["colliding"]})
    options.show_options_of("ggam")
    flags = "--backbone test_resnet --no-pretrained --image-size 32 --epochs 1 --batch-size 6 --workers 0"
    run, given = tmp_path / "run", (*flags.split(), "--colliding.warmup", "3")
    code, _, said = ggam("train", squares, "--out", run, "--method", "colliding", *given)
    assert (code, said) == (0, "")
    config = Run(run).read_config()
    assert config["colliding"] == {"warmup": 3} and "ggam" not in config
    assert Run(run).read_model().config.options == {"warmup": 3}
    code, _, said = ggam("train", squares, "--out", tmp_path / "other", *given)
    assert code == 2 and "--colliding.warmup: an option of the method colliding" in said
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: colliding\nggam:\n  warmup: 7\ncolliding:\n  warmup: 4\n")
    code, _, said = ggam("train", squares, "--out", tmp_path / "file", "--config", recipe, *flags.split())
    assert (code, said) == (0, "")
    assert Run(tmp_path / "file").read_config()["colliding"] == {"warmup": 4}


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


def test_options_of_several_kinds_come_back_as_they_were(squares: Path, tmp_path: Path) -> None:
    """Tuples and paths, through config.yaml, a model folder and a resumed run."""

    @dataclass(frozen=True, kw_only=True)
    class Options:
        scales: tuple[int, ...] = (1, 2)
        centres: Path | None = None

    class Many(METHODS["baseline"]):
        pass

    Many.Options = Options
    METHODS["many"] = Many
    try:
        config = configure(squares, "many", epochs=1, many={"centres": "c.npy", "scales": [3, 4]})
        assert config.recipe.options == Options(scales=(3, 4), centres=Path("c.npy"))
        run = Run(tmp_path / "run")
        fit(config, run, measure)
        assert RunConfig.read(run) == config
        assert run.read_model().options == config.recipe.options
        fit(config, run, measure, resume=True)
    finally:
        del METHODS["many"]
