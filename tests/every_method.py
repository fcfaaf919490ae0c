"""What the tests over every method have in common: the cases, and how they are built and trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ggam import create_model
from ggam.evaluation.evaluate import evaluate
from ggam.methods.base import FineGrainedModel
from ggam.methods.registry import METHODS
from ggam.training.recipe import Recipe
from ggam.training.run import RunConfig
from toys import TOYS

CASES = [*METHODS, *(name for name in TOYS if name != "colliding")]
every_method = pytest.mark.parametrize("method", CASES)
SIDE, LARGE = 32, 96
"""Of the pictures that are trained on, and of those whose maps must be larger than one cell."""


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
