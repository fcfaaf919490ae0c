"""What the README promises: its Python lines run, its files and commands exist."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ggam import cli
from ggam.fitting import fit
from ggam.methods.registry import METHODS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_python_lines_run(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(blocks) == 3
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "images": torch.randn(4, 3, 64, 64),
        "labels": torch.tensor([0, 1, 2, 3]),
        "features": torch.rand(4, 2048, 3, 3, requires_grad=True),
        "head": torch.nn.Linear(2048, 200),
    }
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        # Without a network there are no published weights, and 448 pixels would take a while.
        block = block.replace("num_classes=200)", "num_classes=200, pretrained=False, image_size=64)")
        small = "image_size=32, backbone='test_resnet', pretrained=False, batch_size=6, workers=0"
        block = block.replace("image_size=224", small).replace("epochs=30", "epochs=1")
        exec(block.replace("PHOTOS", str(squares)), names)
    assert torch.isfinite(names["loss"]) and set(names["terms"]) == {"classification", "guidance"}
    assert names["explanation"].maps.shape == (4, 2, 2)
    assert (tmp_path / "model.onnx").is_file() and (tmp_path / "predictions.csv").is_file()


def test_the_method_of_contributing_is_one(squares: Path, tmp_path: Path) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    file = tmp_path / "centre.py"
    file.write_text(block)
    spec = importlib.util.spec_from_file_location("centre", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["centre"] = module
    spec.loader.exec_module(module)
    METHODS["centre"] = module.Centre
    try:
        recipe: dict[str, Any] = {
            "method": "centre",
            "centre": {"weight": 0.02},
            "backbone": "test_resnet",
            "pretrained": False,
            "image_size": 32,
            "epochs": 1,
            "batch_size": 6,
            "workers": 0,
        }
        run = fit(squares, out=tmp_path / "run", **recipe)
        assert "centre" in run.read_epochs()[0] and run.model.config.options == {"weight": 0.02}
    finally:
        del METHODS["centre"]


def test_the_places_that_contributing_names_are_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for name in re.findall(r"`((?:src|tests|methods|training|runs|evaluation)/[\w/]+\.py)`", page):
        assert (ROOT / name).exists() or (ROOT / "src/ggam" / name).exists(), name


def test_every_file_it_names_exists() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    tree = re.search(r"```\nsrc/ggam/\n(.*?)```", README, flags=re.S)
    assert tree is not None
    for line in tree.group(1).splitlines():
        base = ROOT / "src/ggam" if line.startswith("  ") else ROOT
        for name in re.findall(r"(?<![\w.])[a-z_]+(?:\.py|/)", line.split("   ")[0]):
            assert (base / name).exists(), name


def test_every_command_it_names_exists() -> None:
    known = {*cli.COMMANDS, "data"}
    assert set(re.findall(r"^ggam (\w+)", README, flags=re.M)) <= known
