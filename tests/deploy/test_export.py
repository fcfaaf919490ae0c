"""Exported files against the model in PyTorch, run by onnxruntime and torch.export themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import ggam
from ggam.backbones.build import Features
from ggam.data.transforms import ImageTransform
from ggam.deploy.export import CARD_FILE, FULL, HALF, ExportError, difference, export_model, noise_pictures
from ggam.deploy.predictor import Inference
from ggam.methods.base import FineGrainedModel, Output
from ggam.methods.baseline import Baseline

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_inference.py"


class Small(nn.Sequential):
    """A backbone that is quick to trace."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, 4), nn.ReLU(), nn.Conv2d(16, 128, 3, 4), nn.BatchNorm2d(128), nn.ReLU()
        )


class Sized(nn.Module):
    """A backbone with a position table for 64 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 8, stride=8)
        self.table = nn.Parameter(torch.zeros(6, 8, 8))

    def forward(self, images: Tensor) -> Tensor:
        return (self.conv(images) + self.table).relu()


class Bessel(nn.Module):
    """A backbone with a function that ONNX does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 8, stride=8)

    def forward(self, images: Tensor) -> Tensor:
        return torch.special.bessel_j0(self.conv(images)).relu()


class Drifting(nn.Module):
    """A backbone whose every call gives larger features: what was traced is not what comes next."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=8)
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.conv(images).relu() * self.calls


class Halved(Baseline):
    """A method with a head of its own, which the closed form of the head it overrides does not fit."""

    def head(self, features: Features, images: Tensor) -> Output:
        output = super().head(features, images)
        return output._replace(logits=output.logits / 2)


def create(method: str = "ggam", backbone: str | nn.Module | None = None, **options: Any) -> FineGrainedModel:
    torch.manual_seed(0)
    chosen = Small() if backbone is None else backbone
    return ggam.create_model(chosen, 3, method=method, pretrained=False, image_size=64, **options).eval()


def images_of(count: int) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(count))


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def outputs(path: Path, **inputs: Tensor) -> dict[str, Any]:
    """What onnxruntime computes, by name."""
    run = session(path)
    names = [output.name for output in run.get_outputs()]
    values = run.run(None, {name: value.numpy() for name, value in inputs.items()})
    return dict(zip(names, values, strict=True))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_model(create(), path)
    return path


def assert_like_eager(path: Path, model: FineGrainedModel, tolerance: float = 1e-5) -> None:
    for count in (1, 2, 7):
        found = outputs(path, images=images_of(count))
        expected = ggam.explain(model, images_of(count))
        scale = float(expected.maps.max())
        np.testing.assert_allclose(found["logits"], expected.logits, atol=tolerance)
        np.testing.assert_allclose(found["probabilities"], expected.logits.softmax(dim=1), atol=tolerance)
        np.testing.assert_allclose(found["map"], expected.maps, atol=tolerance * scale)


def test_any_batch_gives_what_explain_gives(exported: Path) -> None:
    assert_like_eager(exported, create())


def test_the_plain_network_has_a_map_too(tmp_path: Path) -> None:
    done = export_model(create("baseline"), tmp_path / "m.onnx")
    assert done.maps and done.bytes == done.path.stat().st_size
    assert done.difference.logits <= FULL.logits and done.difference.map <= FULL.map
    assert_like_eager(done.path, create("baseline"))


def test_half_precision_halves_the_file_and_hardly_moves_the_numbers(exported: Path, tmp_path: Path) -> None:
    done = export_model(create(preset="released"), tmp_path / "half.onnx", half=True)
    assert done.bytes < 0.65 * exported.stat().st_size
    assert 0 < done.difference.logits < HALF.logits
    assert_like_eager(done.path, create(preset="released"), tolerance=HALF.map)


def test_one_attention_behind_the_backbone_has_a_map_too(tmp_path: Path) -> None:
    model = create("senet", placement="last")
    with torch.no_grad():  # away from the identity that it starts as
        for parameter in model.get_submodule("attention").parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    done = export_model(model, tmp_path / "m.onnx")
    assert done.maps
    assert_like_eager(done.path, model)


def without_closed_form(how: str) -> FineGrainedModel:
    model = create("baseline")
    if how == "another head":
        return Halved(model.backbone, model.config, model.options).eval()
    model.classifier = nn.Sequential(model.get_submodule("classifier"), nn.Softplus())
    return model


@pytest.mark.parametrize("how", ["another head", "another classifier"])
def test_a_method_without_a_closed_form_is_exported_without_the_map(how: str, tmp_path: Path) -> None:
    model = without_closed_form(how)
    done = export_model(model, tmp_path / "m.onnx")
    found = outputs(done.path, images=images_of(2))
    assert not done.maps and "map" not in found
    np.testing.assert_allclose(found["logits"], ggam.explain(model, images_of(2)).logits, atol=1e-5)
    with pytest.raises(ExportError, match="--classes-input"):
        export_model(model, tmp_path / "n.onnx", classes_input=True)


def test_a_model_with_a_position_table_has_one_size(tmp_path: Path) -> None:
    model = create(backbone=Sized())
    with pytest.raises(ExportError, match="cannot be traced for pictures of 96 pixels") as found:
        export_model(model, tmp_path / "m.onnx", image_size=96)
    assert "\n" not in str(found.value)
    assert not list(tmp_path.iterdir())


def test_torch_export_at_another_size_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    model = create(preset="released").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done = export_model(model, tmp_path / "m.pt2", format="torch", classes_input=True, image_size=96)
    assert done.difference.logits <= FULL.logits
    extra = {CARD_FILE: ""}
    program = torch.export.load(done.path, extra_files=extra)
    card = json.loads(extra[CARD_FILE])
    assert (card["image_size"], card["resize"], card["class_names"]) == (96, 129, ["0", "1", "2"])
    images, classes = noise_pictures(96)[:3], torch.tensor([2, -1, 0])
    heat = program.module()(images, classes)[2]
    classes[1] = ggam.explain(model, images).classes[1]
    np.testing.assert_allclose(heat.detach(), ggam.explain(model, images, classes).maps, atol=1e-5)
    assert model.config.image_size == 64
    assert all(part.training for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_file_that_differs_is_not_kept(tmp_path: Path) -> None:
    model = create("baseline", Drifting())
    with pytest.raises(ExportError, match=r"differs from the model: logits by .* nothing was written"):
        export_model(model, tmp_path / "m.pt2", format="torch")
    assert not list(tmp_path.iterdir())


def test_what_onnx_does_not_have_is_named(tmp_path: Path) -> None:
    model = create("baseline", Bessel())
    with pytest.raises(ExportError, match=r"cannot be written as ONNX: .*bessel_j0.*--format torch") as found:
        export_model(model, tmp_path / "m.onnx")
    assert "\n" not in str(found.value)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_numbers_are_not_exported(tmp_path: Path) -> None:
    model = create("baseline")
    with torch.no_grad():
        next(model.backbone.parameters()).fill_(float("nan"))
    with pytest.raises(ExportError, match="differs from the model: logits by nan"):
        export_model(model, tmp_path / "m.pt2", format="torch")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("there.onnx", {}, "there.onnx: is there already; remove it"),
        ("m.bin", {}, "expected a name that ends in .onnx"),
        ("m.onnx", {"format": "torch"}, "expected a name that ends in .pt2"),
        ("m.pt2", {"format": "torch", "half": True}, "--half"),
        ("m.onnx", {"classes_input": True, "maps": False}, "--classes-input"),
        ("m.onnx", {"pictures": torch.zeros(1, 3, 64, 64)}, "two pictures or more"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_done(
    name: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "there.onnx").write_bytes(b"precious")
    with pytest.raises(ExportError, match=message):
        export_model(create("baseline"), tmp_path / name, **options)
    assert [file.name for file in tmp_path.iterdir()] == ["there.onnx"]
    assert (tmp_path / "there.onnx").read_bytes() == b"precious"


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sys.modules["importlib.util"].find_spec
    monkeypatch.setattr(
        "ggam.deploy.export.find_spec", lambda name: None if name == "onnxscript" else real(name)
    )
    with pytest.raises(ExportError, match=r"needs onnxscript.*pip install 'ggam\[export\]'"):
        export_model(create("baseline"), tmp_path / "m.onnx")


def test_differences_by_hand() -> None:
    model = [np.array([[4.0, 1.0]]), np.zeros(1), np.array([[[0.0, 2.0]]])]
    file = [np.array([[4.2, 1.0]]), np.zeros(1), np.array([[[0.0, 1.5]]])]
    assert difference(model, file, 1e-4) == pytest.approx((0.05, 0.25))
    assert difference(model[:2], file[:2], 1e-4) == pytest.approx((0.05, 0.0))
    empty = [model[0], model[1], np.zeros((1, 1, 2))]
    assert difference(empty, [*empty[:2], np.full((1, 1, 2), 0.1)], 1e-4).map == pytest.approx(0.1)


def test_maps_of_a_tie_are_not_compared_but_those_of_a_wrong_class_are() -> None:
    heat = np.array([[[1.0]], [[1.0]]])
    model = [np.array([[4.0, 1.0], [2.0, 2.0 - 1e-5]]), np.zeros(2), heat]
    tied = [np.array([[4.0, 1.0], [2.0 - 1e-5, 2.0]]), np.zeros(2), heat * [[[1.0]], [[0.0]]]]
    assert difference(model, tied, 1e-4).map == 0
    wrong = [np.array([[1.0, 4.0], [2.0, 2.0 - 1e-5]]), np.zeros(2), heat * [[[0.0]], [[1.0]]]]
    assert difference(model, wrong, 1e-4).map == 1


def test_the_example_needs_numpy_pillow_and_onnxruntime_only(exported: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    script = (
        "import sys, runpy\n"
        "for name in ('torch', 'torchvision', 'timm', 'ggam', 'onnx'): sys.modules[name] = None\n"
        f"sys.argv = ['x', {str(exported)!r}, 'picture.png', 'overlay.png']\n"
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(tmp_path / "overlay.png") as overlay:
        assert overlay.size == (64, 64)
    model = create()
    with Image.open(tmp_path / "picture.png") as picture:
        transform = model.config.transform()
        assert isinstance(transform, ImageTransform)
        logits = ggam.explain(model, transform(picture)[None]).logits[0]
    best = int(logits.argmax())
    first = done.stdout.splitlines()[0].split()
    assert first == [f"{float(logits.softmax(dim=0)[best]):.1%}", str(best)]


def test_a_file_that_answers_otherwise_than_forward_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is traced may have a shortened path of its own: it is held against the model itself."""

    def shortened(self: Inference, images: torch.Tensor, classes: torch.Tensor | None = None) -> Any:
        logits = 2 * self.model(images).logits
        return logits, logits.softmax(dim=1), self.model(images).attended.sum(dim=1)

    monkeypatch.setattr(Inference, "forward", shortened)
    with pytest.raises(ExportError, match="the exported file differs from the model: logits by"):
        export_model(create("baseline"), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
