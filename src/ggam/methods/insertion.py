"""Attention modules put into a backbone, or after it, so that nothing changes before training.

What `senet.py` and `cbam.py` have in common. A gate that is a sigmoid starts near ½: it would
halve each residual branch of pre-trained weights, and the whole map at each stage of a VGG. Each module
here starts as a factor of exactly 1 instead: its last weights are zero, and its gate is 2σ(·).

The second danger comes with the first steps. Networks without norms (VGG, SqueezeNet) have activations
of tens to hundreds; a gate's logit moves by the square of what the gate sees, and is saturated at once.
Seen on Flowers-17 with SqueezeNet, 12 pictures a class, 5 epochs, one seed: plain 83.8 %, SE without unit
scale 11.2 %. Where no norm stands before it, a module therefore sees its map through `UnitScale`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torchvision.models import resnet as torchvision_resnet
from torchvision.models.squeezenet import Fire

from ggam.backbones.build import LAST, Backbone, Features
from ggam.backbones.weights import BackboneError
from ggam.methods.base import GRADCAM_FEATURES, ModelConfig, Output, ParameterGroup, Place, new_and_pretrained
from ggam.methods.baseline import Baseline, BaselineOptions

Placement = Literal["blocks", "last"]

_RESIDUAL_BLOCKS = (BasicBlock, Bottleneck, torchvision_resnet.BasicBlock, torchvision_resnet.Bottleneck)
_SMALLEST_POWER = 2.0**-40
"""Of a map that counts as empty, and is not scaled up any further."""
_STACKED_LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, Fire)


@dataclass(frozen=True, kw_only=True)
class InsertionOptions(BaselineOptions):
    """The options of senet and cbam.

    Raises:
        ValueError: for a placement that there is not.
    """

    placement: Placement = "blocks"
    """Attention in every block of the backbone, or once, on its last feature map."""

    def __post_init__(self) -> None:
        """Refuse what is no place."""
        if self.placement not in get_args(Placement):
            raise ValueError(
                f"placement={self.placement!r}: expected one of {', '.join(get_args(Placement))}"
            )


class OpenGate(nn.Module):
    """2σ(x), between 0 and 2: exactly 1 at x = 0, where a module with zeroed last weights starts."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same shape."""
        return 2 * torch.sigmoid(x)


class UnitScale(nn.Module):
    """Shows an attention module each image's map at a root mean square near 1, and scales the result back.

    So the gates do not depend on the scale of A. The factor is a power of two, a constant for the
    gradient: multiplying by it rounds nothing, and what starts as the identity stays it bit for bit.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        power = features.detach().float().square().mean(dim=(1, 2, 3), keepdim=True)
        scale = torch.exp2((0.5 * power.clamp(min=_SMALLEST_POWER).log2()).round()).to(features.dtype)
        return self.attention(features / scale) * scale


class Attended(nn.Sequential):
    """A layer of the backbone, and the attention inserted after it."""

    def __init__(self, layer: nn.Module, attention: nn.Module) -> None:
        super().__init__(layer, attention)

    @property
    def attention(self) -> nn.Module:
        """What was inserted."""
        return self[1]


class InsertedAttention(Baseline):
    """The plain network with attention modules C → C in or after its backbone.

    With placement `blocks`, the modules are part of A = F_cp(x), and y = classifier(average(A)). They
    stand where SENet and CBAM have them: in each residual block, after the last norm and before the
    addition (ResNets of timm and torchvision); or, in stacks without shortcuts (VGG, AlexNet,
    SqueezeNet), at the end of each stage, before its pooling, and there at unit scale.

    With placement `last`, one module at unit scale maps A to D, as GGAM's does, and
    y = classifier(average(D)): every attention on equal footing, same backbone, same classifier. It takes
    any backbone.

    Either way the logits start as those of the plain network of the same weights, and all parameters
    of the modules learn at the classifier's rate.
    """

    Options = InsertionOptions
    options: InsertionOptions
    map_titles: ClassVar[Mapping[str, str]] = {"gradcam-features": GRADCAM_FEATURES}

    def __init__(self, backbone: Backbone, config: ModelConfig, options: InsertionOptions) -> None:
        super().__init__(backbone, config, options)
        self.attention: nn.Module = nn.Identity()
        if options.placement == "last":
            self.attention = UnitScale(self.build_attention(backbone.channels))
        else:
            self._insert()

    @staticmethod
    def build_attention(channels: int) -> nn.Module:
        """A new module (B, C, H, W) → (B, C, H, W) that starts as the identity."""
        raise NotImplementedError("a method with inserted attention says which")

    def _insert(self) -> None:
        insert_attention(self.backbone, self.build_attention, self.config.backbone)

    @property
    def map_kinds(self) -> tuple[str, ...]:
        """Grad-CAM before the module too, where there is one after the backbone."""
        return ("gradcam-features",) if self.options.placement == "last" else ()

    def head(self, features: Features, images: Tensor) -> Output:
        """A (B, C, H, W) → logits: y = classifier(average(D)), where D is A with placement `blocks`."""
        last = features[LAST]
        attended = self.attention(last)
        return Output(self.classifier(attended.mean(dim=(2, 3))), last, attended, {})

    def closed_form(self, output: Output, classes: Tensor, at: Place) -> Tensor | None:
        """That of the plain network at D; at A only where nothing lies between the two."""
        if at == "features" and self.options.placement == "last":
            return None
        return Baseline.closed_form(self, output, classes, at)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The inserted modules learn at the rate of what is new, wherever they stand."""
        inserted = [m.attention for m in self.backbone.modules() if isinstance(m, Attended)]
        fresh = {id(parameter) for module in inserted for parameter in module.parameters()}
        return new_and_pretrained(self, (p for p in self.backbone.parameters() if id(p) not in fresh))


def insert_attention(
    backbone: nn.Module, build_attention: Callable[[int], nn.Module], name: str | None
) -> None:
    """Put an attention module into each block or stage of a backbone, in place.

    Args:
        backbone: what to put it into.
        build_attention: makes a module for a number of channels.
        name: what the backbone was built by; None for a module of the caller's, which is never changed.

    Raises:
        BackboneError: if the structure is not known, or holds attention already.
    """
    places = [] if name is None else _places(backbone, name)
    if not places:
        what = "a module of your own" if name is None else f"backbone {name!r}"
        raise BackboneError(
            f"{what}: expected a ResNet or a stack like VGG, by name, to insert attention into its blocks; "
            "use placement='last' (--NAME.placement last) for one module after any backbone"
        )
    for place in places:
        layer, attention = getattr(place.parent, place.child), build_attention(place.channels)
        if not place.normed:
            attention = UnitScale(attention)
        setattr(place.parent, place.child, Attended(layer, attention))


class _Place(NamedTuple):
    """Where a module goes: after `parent.child`."""

    parent: nn.Module
    child: str
    channels: int
    normed: bool
    """Whether a norm has given the output of `parent.child` its scale."""


def _places(backbone: nn.Module, name: str) -> list[_Place]:
    blocks = [module for module in backbone.modules() if isinstance(module, _RESIDUAL_BLOCKS)]
    if any(getattr(block, "se", None) is not None for block in blocks):
        raise BackboneError(
            f"backbone {name!r} has attention in its blocks already: choose one without, or placement='last'"
        )
    if blocks:
        return [_last_norm(block) for block in blocks]
    for path, module in backbone.named_modules():
        if path.endswith(".features") and isinstance(module, nn.Sequential):
            return _stage_ends(module)
    return []


def _last_norm(block: Any) -> _Place:
    """The norm before the addition: the third of a bottleneck, the second of a basic block."""
    if hasattr(block, "conv3"):
        return _Place(block, "bn3", block.conv3.out_channels, normed=True)
    return _Place(block, "bn2", block.conv2.out_channels, normed=True)


def _stage_ends(stack: nn.Sequential) -> list[_Place]:
    """The layers before a pooling, and the last one of a map that ends before its pooling."""
    if not all(isinstance(layer, _STACKED_LAYERS) for layer in stack):
        return []
    places, channels = [], 0
    for (child, layer), (_, following) in pairwise([*stack.named_children(), ("", None)]):
        if isinstance(layer, nn.Conv2d):
            channels = layer.out_channels
        elif isinstance(layer, Fire):
            channels = layer.expand1x1.out_channels + layer.expand3x3.out_channels
        pools = isinstance(following, nn.MaxPool2d) or following is None
        if pools and not isinstance(layer, nn.MaxPool2d):
            places.append(_Place(stack, child, channels, normed=False))
    return places
