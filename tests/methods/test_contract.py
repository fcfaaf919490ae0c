"""What the answers of every method have in common, those of the package and some made to break it."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from every_method import build, configure, every_method, images, measure
from ggam import explain, load_dataset, load_model, save_model
from ggam.commands import options
from ggam.deploy.export import export_model
from ggam.deploy.predictor import OnnxPredictor, TorchPredictor, open_predictor
from ggam.equations.gradcam import gradcam_weights
from ggam.evaluation.evaluate import evaluate
from ggam.methods.registry import METHODS
from ggam.report.panels import explain_files
from ggam.runs.run import Run
from ggam.training.run import RunConfig, fit
from toys import registered


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[None]:
    with registered():
        yield


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


@pytest.mark.parametrize("method", [*METHODS, "twopasses"])
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
