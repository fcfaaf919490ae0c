"""Every example runs as it is printed, without a network and without a warning."""

import re
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
ELSEWHERE = {"onnx_inference.py"}
"""Run by tests that make the file it needs."""


def run(name: str, *arguments: str) -> None:
    main = runpy.run_path(str(EXAMPLES / name))["main"]
    main(*arguments)


def test_each_has_a_test_and_a_tutorial_length() -> None:
    tests = Path(__file__).read_text("utf-8")
    for file in EXAMPLES.glob("*.py"):
        assert f'run("{file.name}"' in tests or file.name in ELSEWHERE, file.name
        lines = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
        assert len(lines) <= 65, file.name
        assert re.match(r'"""[^\n]+\n\npython \w+\.py', "\n".join(file.read_text("utf-8").splitlines()[:3]))


def test_a_plain_loop_learns(capsys: pytest.CaptureFixture[str]) -> None:
    run("plain_pytorch.py")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    right = [int(line.rsplit(", ", 1)[1].removesuffix("% right")) for line in lines]
    assert right[-1] > 90 and all("guidance 0." in line for line in lines)


def test_a_timm_model(capsys: pytest.CaptureFixture[str]) -> None:
    run("timm_model.py", "test_resnet")
    output = capsys.readouterr().out
    assert "test_resnet: heat maps (6, 2, 2) of classes [" in output
    assert len(re.findall(r"^step \d: classification \d\.\d{4}, guidance 0\.\d{4}$", output, re.M)) == 4


@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # Lightning's advice,
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")  # and what it uses of torch
def test_a_lightning_module(capsys: pytest.CaptureFixture[str]) -> None:
    run("lightning_module.py")
    shown = capsys.readouterr().out
    assert "'val_accuracy'" in shown and "'guidance'" in shown and "'target_entropy'" in shown


def test_a_transformers_classifier(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    random_state = torch.get_rng_state()
    run("transformers_classifier.py", str(tmp_path / "overlay.png"))
    torch.set_rng_state(random_state)
    output = capsys.readouterr().out
    assert output.count("guidance 0.") == 3
    assert "ResNet: classes" in output and "ViT: classes" in output and "maps (6, 4, 4)" in output
    assert (tmp_path / "overlay.png").stat().st_size > 1000
