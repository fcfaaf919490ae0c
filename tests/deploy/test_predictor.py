"""One answer, whatever a model is stored as; and one line about what is no model."""

import csv
import json
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import ggam
from ggam.deploy.export import export_model
from ggam.deploy.file_card import CardError, FileCard
from ggam.deploy.predictions.run import predict_files
from ggam.deploy.predictor import OnnxPredictor, Predictor, PredictorError, open_predictor
from ggam.evaluation.evaluate import evaluate
from ggam.methods.base import PREDICTED, FineGrainedModel
from ggam.report.panels import explain_files
from ggam.runs.run import Results, Run, RunError
from ggam.system.devices import DeviceError

NAMES = ("Dunlin", 'the "small" one, grey', "Ελιά")


@pytest.fixture(scope="module")
def model() -> FineGrainedModel:
    torch.manual_seed(0)
    model = ggam.create_model("test_resnet", class_names=NAMES, pretrained=False, image_size=64)
    model.config = replace(model.config, temperature=2.5)
    return model.eval()


@pytest.fixture(scope="module")
def run(model: FineGrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory as training leaves it, and the model exported with and without the choice of class."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    measured = {"top1": 0.75, "pictures": 12, "top5": 1.0}
    ggam.save_model(model, Run(folder).model_folder)
    Run(folder).write_results(Results("last epoch", "last", {"last": measured}, {"test": 12}, 3.5))
    export_model(model, folder / "any.onnx", classes_input=True, accuracy={"top1": 0.75, "pictures": 12})
    export_model(model, folder / "none.onnx", maps=False)
    return folder


@pytest.fixture(scope="module", params=["", "model", "any.onnx"])
def predictor(run: Path, request: pytest.FixtureRequest) -> Predictor:
    return open_predictor(run / request.param, device="cpu")


def images(count: int = 5) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_the_answer_is_that_of_explain(predictor: Predictor, model: FineGrainedModel) -> None:
    expected = ggam.explain(model, images())
    found = predictor.predict(images().numpy())
    np.testing.assert_allclose(found.logits, expected.logits.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.probabilities, (expected.logits / 2.5).softmax(dim=1).numpy(), atol=1e-6)
    assert found.classes.tolist() == expected.classes.tolist()
    assert found.maps is not None
    np.testing.assert_allclose(found.maps, expected.maps.numpy(), atol=1e-5)
    assert {part.dtype for part in (found.logits, found.probabilities, found.maps)} == {np.dtype("float32")}


def test_every_answer_states_the_same_calibrated_probability(
    predictor: Predictor, model: FineGrainedModel, squares: Path, tmp_path: Path
) -> None:
    """What `ggam evaluate`, `ggam explain` and `ggam predict` say of the same pictures."""
    test = ggam.load_dataset(squares, split="test").with_transform(predictor.transform)
    named = deepcopy(model)
    named.config = replace(model.config, class_names=test.class_names)
    evaluated = [prediction.probability for prediction in evaluate(named, test).predictions]
    paths = [sample.path for sample in test.samples]
    panels, _ = explain_files(model, paths, tmp_path / "panels", top=1)
    explained = [panel.classes[0].probability for panel in panels]
    predicted = predictor.predict(torch.stack([test[index][0] for index in range(len(test))])).probabilities
    np.testing.assert_allclose(evaluated, predicted.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(explained, predicted.max(axis=1), atol=1e-6)
    sources = [str(squares / "test")]
    predict_files(predictor, sources, tmp_path / "p.csv", top=1, workers=0)
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = {row["path"]: float(row["probability_1"]) for row in csv.DictReader(file)}
    assert [rows[str(path)] for path in paths] == pytest.approx(evaluated, abs=1e-4)


def test_some_images_choose_their_class_and_others_leave_it(
    predictor: Predictor, model: FineGrainedModel
) -> None:
    found = predictor.predict(images(), [2, PREDICTED, 0, PREDICTED, 1])
    predicted = ggam.explain(model, images()).classes
    classes = torch.tensor([2, predicted[1], 0, predicted[3], 1])
    assert found.classes.tolist() == classes.tolist()
    assert found.maps is not None
    np.testing.assert_allclose(found.maps, ggam.explain(model, images(), classes).maps.numpy(), atol=1e-5)


def test_what_it_says_of_itself(predictor: Predictor, run: Path, model: FineGrainedModel) -> None:
    assert predictor.class_names == NAMES
    assert predictor.temperature == 2.5
    assert predictor.transform == model.config.transform()
    assert predictor.maps == "any"
    described = json.loads(json.dumps(predictor.description))
    assert described["method"] == "ggam"
    assert (described["image_size"], described["classes"]) == (64, 3)
    assert described.get("accuracy") in (None, {"top1": 0.75, "pictures": 12})
    assert str(run) not in json.dumps(described)


def test_a_run_and_its_export_know_the_accuracy(run: Path) -> None:
    for name in ("", "any.onnx"):
        assert open_predictor(run / name).description["accuracy"] == {"top1": 0.75, "pictures": 12}


def test_a_file_without_maps_predicts_all_the_same(run: Path, model: FineGrainedModel) -> None:
    predictor = open_predictor(run / "none.onnx")
    found = predictor.predict(images())
    assert (predictor.maps, found.maps) == ("none", None)
    np.testing.assert_allclose(found.logits, ggam.explain(model, images()).logits.numpy(), atol=1e-5)
    with pytest.raises(PredictorError, match="gives no heat maps"):
        predictor.predict(images(1), [1])


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((3, 64, 64), None, r"expected \(B, 3, 64, 64\)"),
        ((2, 3, 32, 32), None, r"shape \(2, 3, 32, 32\)"),
        ((0, 3, 64, 64), None, "one at least"),
        ((2, 3, 64, 64), [0], "expected 2, one for each image"),
        ((2, 3, 64, 64), [0, 3], "from 0 to 2"),
        ((2, 3, 64, 64), [0, -2], "or -1 for the predicted"),
    ],
)
def test_what_does_not_fit_is_refused(
    predictor: Predictor, shape: tuple[int, ...], classes: list[int] | None, message: str
) -> None:
    with pytest.raises(PredictorError, match=message):
        predictor.predict(np.zeros(shape, np.float32), classes)


def test_fingerprints_tell_models_apart(run: Path, model: FineGrainedModel, tmp_path: Path) -> None:
    first = open_predictor(run).fingerprint()
    assert first == open_predictor(run / "model").fingerprint()
    warmer = ggam.load_model(run / "model")
    warmer.config = replace(warmer.config, temperature=3.0)
    ggam.save_model(warmer, tmp_path / "warmer")
    state = ggam.load_model(run / "model")
    with torch.no_grad():
        next(state.parameters()).view(-1)[0] += 1e-6
    ggam.save_model(state, tmp_path / "moved")
    others = [open_predictor(tmp_path / name).fingerprint() for name in ("warmer", "moved")]
    files = [open_predictor(run / name).fingerprint() for name in ("any.onnx", "none.onnx")]
    assert len({first, *others, *files}) == 5


def foreign(tmp_path: Path, metadata: dict[str, str]) -> Path:
    """An ONNX file that runs, with some metadata."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("images", "logits")]
    node = helper.make_node("Identity", ["images"], ["logits"])
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(proto, metadata)
    onnx.save(proto, tmp_path / "foreign.onnx")
    return tmp_path / "foreign.onnx"


def test_files_that_are_not_ours(tmp_path: Path, model: FineGrainedModel) -> None:
    with pytest.raises(CardError, match=r"foreign.onnx: not a model of ggam .*'format'.*ggam export"):
        open_predictor(foreign(tmp_path, {}))
    newer = FileCard(model.config).to_metadata() | {"format": "2", "ggam": '"9.0"'}
    with pytest.raises(CardError, match=r"written by ggam 9.0, a newer version"):
        open_predictor(foreign(tmp_path, newer))
    del newer["accuracy"]  # a newer version may hold other things
    with pytest.raises(CardError, match=r"written by ggam 9.0, a newer version"):
        open_predictor(foreign(tmp_path, newer))
    broken = FileCard(model.config).to_metadata() | {"mean": "[1, 2"}
    with pytest.raises(CardError, match="not a model of ggam"):
        open_predictor(foreign(tmp_path, broken))


def test_damaged_and_missing_files(run: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes((run / "any.onnx").read_bytes()[:5000])
    (tmp_path / "noise.onnx").write_bytes(b"\x00\xff" * 100)
    for name in ("cut.onnx", "noise.onnx"):
        with pytest.raises(PredictorError, match=f"{name}: cannot be read as an ONNX model") as found:
            open_predictor(tmp_path / name)
        assert "\n" not in str(found.value)
    with pytest.raises(PredictorError, match=r"no.onnx: no such file; expected a model"):
        open_predictor(tmp_path / "no.onnx")


def test_folders_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no trained model; expected a run directory that"):
        open_predictor(tmp_path)
    Run(tmp_path).write_config({"data": "x"})
    with pytest.raises(RunError, match="the run is not finished"):
        open_predictor(tmp_path)
    with pytest.raises(RunError, match="no such folder"):
        open_predictor(tmp_path / "nowhere")


def test_without_onnxruntime(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PredictorError, match=r"not installed; pip install 'ggam\[export\]'"):
        open_predictor(run / "any.onnx")


def test_devices_that_are_not_there(run: Path) -> None:
    with pytest.raises(DeviceError, match="runs on auto, cpu or cuda"):
        open_predictor(run / "any.onnx", device="tpu")
    with pytest.raises(DeviceError, match="'tpu' is not on this machine"):
        open_predictor(run, device="tpu")


def test_threads(run: Path) -> None:
    before = torch.get_num_threads()
    try:
        open_predictor(run, threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    onnx_predictor = open_predictor(run / "any.onnx", threads=1)
    assert isinstance(onnx_predictor, OnnxPredictor)
    assert onnx_predictor.predict(images(2)).logits.shape == (2, 3)
