"""Every kind of backbone ends at the right map, channels first, or is refused."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from ggam import create_model, explain
from ggam.backbones.build import LAST, Backbone, create_backbone, eval_mode
from ggam.backbones.torchvision_models import IMAGENET_MEAN, IMAGENET_STD
from ggam.backbones.weights import BackboneError

# One of each layout that timm knows: channels first, channels last (Swin), tokens (ViT).
TIMM = {
    "test_resnet": 64,
    "vgg11": 64,
    "test_convnext": 64,
    "test_vit": 64,
    "swin_tiny_patch4_window7_224": 64,
}
# The layer behind the pooled map, in each of torchvision's ways of ending a network.
TORCHVISION = {
    "resnet18": "fc",
    "densenet121": "classifier",
    "regnet_x_400mf": "fc",
    "shufflenet_v2_x0_5": "fc",
    "mobilenet_v3_small": "classifier.0",
    "googlenet": "fc",
    "inception_v3": "fc",
    "swin_t": "head",
}


def picture(size: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def channels_first_by_hand(name: str, model: Any, images: Tensor) -> Tensor:
    """The last map through timm's older interface, whose layout differs from family to family."""
    features = model.forward_features(images)
    if name.startswith("swin"):
        return features.permute(0, 3, 1, 2)
    if "vit" in name:
        tokens = features[:, model.num_prefix_tokens :]
        side = int(tokens.shape[1] ** 0.5)
        return tokens.transpose(1, 2).unflatten(2, (side, side))
    return features


@pytest.mark.parametrize(
    "name", [name for name in TIMM if name != "vgg11"]
)  # whose full classifier takes seconds to make
def test_timm_maps_are_the_last_ones_channels_first(name: str) -> None:
    size = TIMM[name]
    backbone = create_backbone(name, pretrained=False, image_size=size).eval()
    fixed: dict[str, Any] = {"img_size": size} if "vit" in name or "swin" in name else {}
    full: Any = timm.create_model(name, **fixed).eval()
    body: Any = backbone.body
    full.load_state_dict(body.model.state_dict(), strict=False)
    with torch.no_grad():
        features = backbone(picture(size))[LAST]
        wanted = channels_first_by_hand(name, full, picture(size))
    assert features.shape[1] == backbone.channels
    torch.testing.assert_close(features, wanted)


@pytest.mark.parametrize("name", TIMM)
def test_timm_networks_train_a_step_and_explain_a_picture(name: str) -> None:
    """ResNet, VGG, ConvNeXt, Swin and ViT through the same lines, with no parameter left out."""
    torch.manual_seed(0)
    size = TIMM[name]
    model = create_model(name, 3, pretrained=False, image_size=size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    terms = model.losses(picture(size), torch.tensor([0, 2]))
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    assert total.isfinite() and terms["guidance"] > 0
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    explanation = explain(model, picture(size))
    assert explanation.logits.shape == (2, 3)
    assert explanation.maps.shape == (2, *model.backbone(picture(size))[LAST].shape[2:])
    assert explanation.maps.isfinite().all() and (explanation.maps >= 0).all()


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_maps_are_what_the_classifier_pools(name: str) -> None:
    backbone = create_backbone(f"torchvision/{name}", pretrained=False, image_size=96).eval()
    inception = name in ("googlenet", "inception_v3")
    full: Any = torchvision.models.get_model(name, **({"init_weights": True} if inception else {})).eval()
    full.load_state_dict(backbone.body.state_dict(), strict=False)
    full.transform_input = True  # what the published weights of the inceptions switch on
    seen: list[Tensor] = []
    full.get_submodule(TORCHVISION[name]).register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    raw = picture(96).double()  # untrained, the inceptions blow rounding up
    full.double()
    backbone.double()
    with torch.no_grad():
        full(normalised(raw, IMAGENET_MEAN, IMAGENET_STD))
        features = backbone(normalised(raw, backbone.mean, backbone.std))[LAST]
    torch.testing.assert_close(features.mean(dim=(2, 3)), seen[0])


def normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    shift, scale = (torch.tensor(values, dtype=images.dtype)[:, None, None] for values in (mean, std))
    return (images - shift) / scale


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_torchvision_parameter_gets_a_gradient(name: str) -> None:
    """Auxiliary classifiers and other leftovers would make DDP wait for ever."""
    backbone = create_backbone(f"torchvision/{name}", pretrained=False, image_size=96)
    backbone(picture(96))[LAST].square().mean().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_squeezenet_and_vgg_end_before_their_classifiers() -> None:
    """512 channels at a 16th and a 32nd of the picture: VGG's map after the last pool, as the paper's."""
    for name, side in (("torchvision/squeezenet1_1", 7), ("vgg11", 4)):
        backbone = create_backbone(name, pretrained=False, image_size=128)
        assert backbone(torch.zeros(1, 3, 128, 128))[LAST].shape == (1, 512, side, side)


def test_the_preprocessing_is_the_networks_own() -> None:
    backbone = create_backbone("test_vit", pretrained=False, image_size=32)
    assert (backbone.mean, backbone.std) == ((0.5,) * 3, (0.5,) * 3)
    assert create_backbone("torchvision/resnet18", pretrained=False, image_size=32).mean == IMAGENET_MEAN


@pytest.mark.parametrize(("stage", "layer"), [(-2, "layer3"), (3, "layer3"), (2, "layer2")])
def test_an_earlier_timm_stage(stage: int, layer: str) -> None:
    backbone = create_backbone("resnet10t", pretrained=False, stage=stage, image_size=64).eval()
    body: Any = backbone.body
    full = timm.create_model("resnet10t").eval()
    full.load_state_dict(body.model.state_dict(), strict=False)
    seen: list[Any] = []
    full.get_submodule(layer).register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        full(picture(64))
        torch.testing.assert_close(backbone(picture(64))[LAST], seen[0])
    assert not any("layer4" in key or "fc" in key for key in body.state_dict())
    backbone.train()(picture(64))[LAST].sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize(("name", "stage"), [("resnet18", "layer3"), ("squeezenet1_1", "features.9")])
def test_an_earlier_torchvision_stage(name: str, stage: str) -> None:
    backbone = create_backbone(f"torchvision/{name}", pretrained=False, stage=stage, image_size=64).eval()
    full = torchvision.models.get_model(name).eval()
    full.load_state_dict(backbone.body.state_dict(), strict=False)
    seen: list[Any] = []
    full.get_submodule(stage).register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        full(picture(64))
        torch.testing.assert_close(backbone(picture(64))[LAST], seen[0])


@pytest.mark.parametrize(
    ("name", "stage", "message"),
    [
        ("test_resnet", 9, r"stage 9 of 'test_resnet': expected an index from 0 to 4"),
        ("test_resnet", "layer3", "stage 'layer3' of 'test_resnet': expected an index"),
        ("torchvision/resnet18", "layer9", "expected one of conv1, bn1, relu, maxpool, layer1"),
        ("torchvision/resnet18", "fc", "expected one of conv1"),
        ("torchvision/resnet18", "layer4.1.conv2", "1 is no plain sequence of layers and cannot be cut"),
        (
            "torchvision/swin_t",
            "features.3",
            r"shape \(1, 8, 8, 192\) as 'last': expected a channels-first",
        ),
        ("torchvision/vit_b_16", None, "'torchvision/vit_b_16' cannot read a 64-pixel picture"),
        ("resnet5O", None, "timm has no such model; did you mean resnet50"),
        ("torchvision/resnet19", None, "torchvision has no such model; did you mean torchvision/resnet18"),
        ("torchvision/fasterrcnn_resnet50_fpn", None, "torchvision has no such model"),
        ("qqqq", None, "no name is close to it"),
        ("resnet50.no_such_tag", None, "no_such_tag"),
        ("halonet26t", None, "'halonet26t' cannot read a 64-pixel picture: AssertionError"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(name: str, stage: Any, message: str) -> None:
    with pytest.raises(BackboneError, match=message) as error:
        create_backbone(name, pretrained=False, stage=stage, image_size=64)
    assert "\n" not in str(error.value)


class Reshaped(nn.Module):
    """A convolution whose map comes out in some layout."""

    def __init__(self, layout: str, channels: int = 5) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, channels, 1, stride=4)
        self.norm = nn.BatchNorm2d(channels)
        self.layout = layout

    def forward(self, images: Tensor) -> Any:
        features = self.norm(self.convolution(images))
        return {
            "nchw": lambda: features,
            "nhwc": lambda: features.permute(0, 2, 3, 1),
            "tokens": lambda: features.flatten(2).transpose(1, 2),
            "tuple": lambda: (features,),
            "pooled": lambda: features.mean(dim=(2, 3)),
        }[self.layout]()


@pytest.mark.parametrize("channels", [5, 4])  # with 4, C = H = W for a 16-pixel picture
def test_a_channels_first_module_is_taken(channels: int) -> None:
    module = Reshaped("nchw", channels)
    backbone = create_backbone(module, image_size=16)
    assert backbone.body is module and backbone.channels == channels
    assert (backbone.mean, backbone.std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize(
    ("layout", "channels", "got"),
    [
        ("nhwc", 5, r"shape \(1, 4, 4, 5\)"),
        ("nhwc", 4, r"shape \(1, 4, 4, 4\)"),
        ("tokens", 5, r"shape \(1, 16, 5\)"),
        ("tuple", 5, "tuple"),
        ("pooled", 5, r"shape \(1, 5\)"),
    ],
)
def test_every_other_layout_is_refused(layout: str, channels: int, got: str) -> None:
    with pytest.raises(BackboneError, match=f"returns {got} as 'last': expected a channels-first .*permute"):
        create_backbone(Reshaped(layout, channels), image_size=16)


def test_trying_a_module_leaves_it_as_it_was() -> None:
    module = Reshaped("nchw")
    module.train()
    module.convolution.eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    create_backbone(module, image_size=16)
    assert (module.training, module.convolution.training, module.norm.training) == (True, False, True)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_eval_mode_comes_back_after_an_error() -> None:
    module = Reshaped("nchw")
    module.norm.eval()
    with pytest.raises(RuntimeError), eval_mode(module):
        assert not module.training
        raise RuntimeError
    assert module.training and not module.norm.training


def test_a_module_that_fails_is_quoted() -> None:
    with pytest.raises(BackboneError, match=r"the backbone cannot read a 16-pixel picture: .*size"):
        create_backbone(nn.Conv2d(3, 4, 20), image_size=16)


def test_weights_and_stage_belong_to_names() -> None:
    options: Any
    for options in ({"weights": "w.pth"}, {"stage": 1}):
        with pytest.raises(BackboneError, match="belong to named backbones"):
            create_backbone(Reshaped("nchw"), **options)


def test_a_module_without_parameters_will_do() -> None:
    assert create_backbone(nn.AvgPool2d(4), image_size=16).channels == 3


def test_a_layout_that_changes_later_is_an_error_then() -> None:
    module = Reshaped("nchw")
    backbone = create_backbone(module, image_size=16)
    module.layout = "nhwc"
    with pytest.raises(BackboneError, match=r"shape \(2, 4, 4, 5\) as 'last': expected \(B, 5, H, W\)"):
        backbone(picture(16))
    assert isinstance(backbone, Backbone)
