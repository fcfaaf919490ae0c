"""CBAM: its two gates against the formula, at the start and after it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ggam import create_model
from ggam.backbones.weights import BackboneError
from ggam.methods.cbam import CBAM


def test_both_gates_by_the_formula() -> None:
    torch.manual_seed(0)
    module = CBAM.build_attention(32).eval()
    for parameter in module.parameters():
        parameter.data.normal_(std=0.3)
    norm = module.spatial.conv.bn
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.fill_(0.2)
    norm.running_var.fill_(1.7)
    assert module.channel.fc1.weight.shape == (2, 32, 1, 1)  # 32/16

    features = torch.rand(2, 32, 9, 8)
    first, second = module.channel.fc1.weight.flatten(1), module.channel.fc2.weight.flatten(1)

    def shared(pooled: Tensor) -> Tensor:
        return (pooled @ first.T).clamp(min=0) @ second.T

    logits = shared(features.mean(dim=(2, 3))) + shared(features.amax(dim=(2, 3)))
    by_channel = features * (2 / (1 + (-logits).exp()))[:, :, None, None]
    planes = torch.stack([by_channel.mean(dim=1), by_channel.amax(dim=1)], dim=1)
    kernel = module.spatial.conv.conv.weight
    assert isinstance(kernel, Tensor)
    scores = F.conv2d(planes, kernel, padding=3)
    normed = (scores - 0.2) / (1.7 + norm.eps) ** 0.5 * norm.weight + norm.bias
    wanted = by_channel * (2 / (1 + (-normed).exp()))
    torch.testing.assert_close(module(features), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [1, 2, 7, 14])
def test_it_starts_as_the_identity_at_any_size(training: bool, size: int) -> None:
    module = CBAM.build_attention(8).train(training)
    features = torch.randn(3, 8, size, size) * 100
    assert torch.equal(module(features), features)


def test_an_empty_map_stays_empty_with_a_finite_gradient() -> None:
    module = CBAM.build_attention(8)
    features = torch.zeros(2, 8, 3, 3, requires_grad=True)
    attended = module(features)
    attended.sum().backward()
    assert not attended.any()
    assert features.grad is not None and features.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_a_network_with_attention_in_its_blocks_is_refused() -> None:
    with pytest.raises(BackboneError, match="'seresnet50' has attention in its blocks already"):
        create_model("seresnet50", 3, method="cbam", pretrained=False, image_size=32)
    create_model("seresnet50", 3, method="cbam", pretrained=False, image_size=32, placement="last")
