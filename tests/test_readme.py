"""What the README promises: its Python lines run, its files and commands exist."""

import re
from pathlib import Path

import torch

from ggam import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_python_lines_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(blocks) == 2
    torch.manual_seed(0)
    names = {
        "images": torch.randn(4, 3, 64, 64),
        "labels": torch.tensor([0, 1, 2, 3]),
        "features": torch.rand(4, 2048, 3, 3, requires_grad=True),
        "head": torch.nn.Linear(2048, 200),
    }
    for block in blocks:
        # Without a network there are no published weights, and 448 pixels would take a while.
        exec(block.replace("num_classes=200)", "num_classes=200, pretrained=False, image_size=64)"), names)
    loss, explanation = names["loss"], names["explanation"]
    assert isinstance(loss, torch.Tensor)
    assert torch.isfinite(loss)
    assert explanation.maps.shape == (4, 2, 2)  # pyright: ignore[reportAttributeAccessIssue]


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
