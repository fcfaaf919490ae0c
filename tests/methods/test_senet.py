"""SENet: its gate against the formula, and which network it stands for."""

from typing import Any

import pytest
import torch
from timm.layers.squeeze_excite import SEModule

from ggam import create_model
from ggam.methods.insertion import Attended, InsertionOptions
from ggam.methods.senet import SENet
from ggam.training.recipe import Recipe
from ggam.training.run import build_model

BLOCKS, LAST = InsertionOptions(), InsertionOptions(placement="last")


def test_the_gate_by_the_formula() -> None:
    torch.manual_seed(0)
    module = SENet.build_attention(32)
    for parameter in module.requires_grad_(False).parameters():
        parameter.normal_()
    assert module.fc1.weight.shape == (8, 32, 1, 1)  # 32/16, rounded to a multiple of 8
    features = torch.rand(2, 32, 3, 5)
    for image, attended in zip(features, module(features), strict=True):
        squeezed = [float(channel.mean()) for channel in image]
        hidden = [
            max(0.0, float(row.flatten() @ torch.tensor(squeezed)) + float(bias))
            for row, bias in zip(module.fc1.weight, _bias(module.fc1), strict=True)
        ]
        for c in range(32):
            logit = float(module.fc2.weight[c].flatten() @ torch.tensor(hidden) + _bias(module.fc2)[c])
            gate = 2 / (1 + torch.exp(torch.tensor(-logit)))
            torch.testing.assert_close(attended[c], gate * image[c], rtol=1e-4, atol=1e-6)


def _bias(layer: Any) -> torch.Tensor:
    return layer.bias


def test_an_empty_map_stays_empty_with_a_finite_gradient() -> None:
    module = SENet.build_attention(8)
    features = torch.zeros(1, 8, 2, 2, requires_grad=True)
    module(features).sum().backward()
    assert not module(features).any()
    assert features.grad is not None and (features.grad == 1).all()


@pytest.mark.parametrize(
    ("name", "options", "built"),
    [
        ("resnet50", BLOCKS, "seresnet50"),
        ("resnext50_32x4d", BLOCKS, "seresnext50_32x4d"),
        ("resnet50", LAST, "resnet50"),
        ("resnet50.a1_in1k", BLOCKS, "resnet50.a1_in1k"),  # these weights, and no others
        ("resnet18", BLOCKS, "resnet18"),  # no twin with weights
        ("vgg19", BLOCKS, "vgg19"),
        ("seresnet50", BLOCKS, "seresnet50"),
        ("torchvision/resnet50", BLOCKS, "torchvision/resnet50"),
    ],
)
def test_published_weights_come_from_the_twin_with_se(
    name: str, options: InsertionOptions, built: str
) -> None:
    assert SENet.published_backbone(name, options) == built


@pytest.mark.parametrize(
    ("changes", "built"),
    [
        ({}, "seresnet50"),
        ({"pretrained": False}, "resnet50"),
        ({"weights": "resnet50.safetensors"}, "resnet50"),
        ({"senet": {"placement": "last"}}, "resnet50"),
        ({"method": "cbam"}, "resnet50"),
        ({"method": "ggam"}, "resnet50"),
    ],
)
def test_a_resumed_run_builds_what_a_fresh_one_did(changes: dict[str, object], built: str) -> None:
    recipe = Recipe.from_dict({"method": "senet", "image_size": 32, **changes})
    assert recipe.backbone == built
    resumed = build_model(recipe, ("a", "b"), fresh=False)  # without the weights, which may be gone
    assert resumed.config.backbone == built


def test_a_network_with_se_stays_as_it_is() -> None:
    model = create_model("seresnet50", 3, method="senet", pretrained=False, image_size=32)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(SEModule) == 16 and Attended not in kinds
    _, pretrained = model.parameter_groups()
    assert {id(p) for p in pretrained.parameters} == {id(p) for p in model.backbone.parameters()}
