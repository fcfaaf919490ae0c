"""The paper's own configurations as written: VGG-19 and ResNet-50 at 448 pixels, random weights."""

import pytest
import torch

from ggam import create_model, explain
from ggam.methods.ggam import PRESETS

BACKBONES = {"resnet50": (2048, 14, 14), "vgg19": (512, 14, 14)}


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_training_step_and_one_evaluation_batch(backbone: str, preset: str) -> None:
    torch.manual_seed(0)
    model = create_model(backbone, 200, pretrained=False, image_size=448, preset=preset)
    images, targets = torch.randn(2, 3, 448, 448), torch.tensor([3, 199])
    pretrained = model.pretrained_parameters()
    fresh = [p for name, p in model.named_parameters() if not name.startswith("backbone.")]
    optimizer = torch.optim.SGD(
        [{"params": fresh, "lr": 0.1}, {"params": pretrained, "lr": 0.01}], momentum=0.9, weight_decay=1e-4
    )
    terms = model.training_loss(images, targets)
    terms.total.backward()
    assert terms.total.isfinite() and terms.guidance > 0
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
