"""The paper's own configurations as written: VGG-19 and ResNet-50 at 448 pixels, random weights."""

import pytest
import torch

from ggam import create_model, explain
from ggam.methods.ggam import PRESETS
from ggam.training.recipe import OptimizationRecipe
from ggam.training.step import build_optimizer

BACKBONES = {"resnet50": (2048, 14, 14), "vgg19": (512, 14, 14)}


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_training_step_and_one_evaluation_batch(backbone: str, preset: str) -> None:
    torch.manual_seed(0)
    model = create_model(backbone, 200, pretrained=False, image_size=448, preset=preset)
    images, targets = torch.randn(2, 3, 448, 448), torch.tensor([3, 199])
    optimizer, _ = build_optimizer(model, OptimizationRecipe(), total_steps=1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]
    fresh = {id(p) for name, p in model.named_parameters() if not name.startswith("backbone.")}
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == fresh
    terms = model.losses(images, targets)
    loss = terms["classification"] + terms["guidance"]
    loss.backward()
    assert loss.isfinite() and terms["guidance"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    optimizer.zero_grad()

    model.eval()
    with torch.no_grad():
        output = model(images)
    assert output.features.shape == (2, *BACKBONES[backbone])
    assert output.logits.shape == (2, 200) and output.logits.isfinite().all()
    explanation = explain(model, images)
    torch.testing.assert_close(explanation.logits, output.logits)
    assert explanation.maps.shape == (2, 14, 14) and explanation.maps.isfinite().all()
