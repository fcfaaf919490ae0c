"""`explain_module` gives what torch-cam and pytorch-grad-cam give, on five families of networks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import ggam  # before the libraries that import torchvision, see ggam.system.torchvision_hook

# isort: split

import timm
import torch
import torchvision
from pytorch_grad_cam import GradCAM as JacobGradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchcam.methods import GradCAM as TorchCamGradCAM

CLASSES = 5


class Case(NamedTuple):
    build: Callable[[], nn.Module]
    layer: str
    size: int
    to_map: Callable[[Tensor], Tensor] | None = None


def timm_model(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=CLASSES, **options)


def vgg19() -> nn.Module:
    """Its convolutions, ending with the last pooling, without the 120 million weights behind them."""
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["E"])
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))


def channels_first(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 3, 1, 2)


def patches(tensor: Tensor) -> Tensor:
    """4×4 tokens behind the class token; written apart from ours."""
    rows = tensor[:, 1:].transpose(1, 2)
    return rows.reshape(*rows.shape[:2], 4, 4)


SWIN = {"img_size": 128, "window_size": 4, "depths": (1, 1, 1, 1), "embed_dim": 24}
CASES = {
    "resnet50": Case(timm_model("resnet50"), "layer4", 96),
    "resnet50, the last block's second convolution": Case(timm_model("resnet50"), "layer4.2.conv2", 96),
    "vgg19": Case(vgg19, "0", 64),
    "convnext": Case(timm_model("convnext_atto"), "stages.3", 96),
    "swin": Case(timm_model("swin_tiny_patch4_window7_224", **SWIN), "layers.3", 128, channels_first),
    "vit": Case(timm_model("vit_tiny_patch16_224", img_size=64, depth=2), "blocks.1.norm1", 64, patches),
    "torchvision swin": Case(
        lambda: torchvision.models.SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=CLASSES),
        "features.3",
        64,
        channels_first,
    ),
    "torchvision vit": Case(
        lambda: torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=CLASSES),
        "encoder.layers.encoder_layer_1.ln_1",
        64,
        patches,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_maps_are_those_of_the_libraries(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    model = case.build().eval()
    for parameter in model.parameters():  # some of them start at zero, which would explain nothing
        if not parameter.any():
            nn.init.normal_(parameter, std=0.5)
    images = torch.randn(2, 3, case.size, case.size)
    asked = (1, 3, 4)
    ours = ggam.explain_module(model, case.layer, images, torch.tensor(asked).expand(2, -1))
    assert not ours.empty.all()
    layer = model.get_submodule(case.layer)
    jacob = JacobGradCAM(model, [layer], reshape_transform=case.to_map)
    with TorchCamGradCAM(model, layer, reshape_transform=case.to_map) as torchcam:
        for maps, k in zip(ours.maps.unbind(1), asked, strict=True):
            theirs = torchcam([k, k], model(images), normalized=False)[0]
            torch.testing.assert_close(maps, theirs, rtol=0, atol=1e-4 * float(theirs.max()) + 1e-12)
            targets: Any = [ClassifierOutputTarget(k)] * 2
            shown = jacob(input_tensor=images, targets=targets)
            # Theirs comes enlarged and normalised; what is empty, or flat, is zero there.
            enlarged = scale_cam_image(scale_cam_image(maps.numpy(), (case.size, case.size)))
            np.testing.assert_allclose(enlarged, shown, rtol=0, atol=1e-4)
    jacob.activations_and_grads.release()
