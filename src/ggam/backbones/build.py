"""Backbones: timm models, torchvision models, any `nn.Module`; images (B, 3, h, w) → named feature maps."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ggam.backbones.timm_models import timm_stages
from ggam.backbones.torchvision_models import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TORCHVISION_PREFIX,
    torchvision_names,
    torchvision_trunk,
)
from ggam.backbones.weights import BackboneError, one_line

Features = dict[str, Tensor]
"""Maps (B, C, H, W) by name, each with its own C, H and W."""
LAST = "last"
"""The name of A, the map of the chosen stage."""


class Backbone(nn.Module):
    """A network cut at the wanted stage: images (B, 3, h, w) → A (B, C, H, W), and earlier maps if wanted.

    Attributes:
        body: the wrapped network, which returns A, or a mapping with A as "last" and the others.
        channels_of: the channels of each map, by name.
        channels: C, those of A.
        mean: what is subtracted from the images, scaled to 0…1, per channel.
        std: what they are then divided by.
    """

    def __init__(
        self,
        body: nn.Module,
        channels_of: Mapping[str, int],
        *,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.body = body
        self.channels_of = dict(channels_of)
        self.channels = self.channels_of[LAST]
        self.mean = mean
        self.std = std

    def forward(self, images: Tensor) -> Features:
        """Images (B, 3, h, w) → A as "last", and the earlier maps by their names.

        Raises:
            BackboneError: if the network returns anything else.
        """
        maps = _named(self.body(images), self.channels_of, "the backbone")
        for name, channels in self.channels_of.items():
            found = maps[name]
            if not isinstance(found, Tensor) or found.ndim != 4 or found.shape[1] != channels:
                raise BackboneError(_layout_complaint("the backbone", name, found, channels))
        return maps


def create_backbone(
    backbone: str | nn.Module,
    *,
    pretrained: bool = True,
    weights: Path | str | None = None,
    stage: int | str | None = None,
    image_size: int = 448,
    earlier: Mapping[str, int] = {},
) -> Backbone:
    """Build a backbone that ends at one feature map, and gives earlier ones as well if they are wanted.

    The result is tried on one blank picture, so that what does not work fails here.

    Args:
        backbone: a timm name (`resnet50`), `torchvision/NAME`, or a module that maps images
            (B, 3, h, w) to (B, C, H, W), or to a mapping with such a map as "last".
        pretrained: load the ImageNet weights that timm or torchvision publish (downloaded on first
            use). Ignored for a module and where `weights` is given.
        weights: a file to load instead: safetensors, a folder with a `model.safetensors`, or a state
            dict that `torch.load` reads with `weights_only=True`. Layers that are cut off, such as the
            classifier, may be in it; any other mismatch is an error.
        stage: which map is the last; None is the network's own. For timm an index into the model's
            stages (-2: the last but one), for torchvision the name of a submodule (`layer3`,
            `features.10`). Layers behind it are removed.
        image_size: height and width in pixels; models with position tables are built for it.
        earlier: names of further maps, and how many stages each lies before "last", from 1. For timm
            the stages are those that `stage` counts; for torchvision one ends with the last layer at
            each resolution. A module has to give maps of these names itself.

    Raises:
        BackboneError: for an unknown name or stage, weights that do not fit or cannot be had, or
            an output that is not a channels-first map.
    """
    wanted = [LAST, *earlier]
    if isinstance(backbone, nn.Module):
        if weights is not None or stage is not None:
            raise BackboneError(
                "weights and stage belong to named backbones: load and cut your module before passing it"
            )
        return _tried(backbone, wanted, image_size, IMAGENET_MEAN, IMAGENET_STD, "the backbone")
    called = f"backbone {backbone!r}"
    _require_known(backbone)
    file = None if weights is None else Path(weights)
    published = pretrained and file is None
    if backbone.startswith(TORCHVISION_PREFIX):
        body, mean, std = torchvision_trunk(backbone, published=published, file=file, stage=stage)
    else:
        body, mean, std = timm_stages(
            backbone, published=published, file=file, stage=stage, image_size=image_size
        )
    if earlier:
        stages = _on_blank(body, body.stages, (image_size, image_size), called)
        body.kept = {name: _stage_before(stages, name, n, called) for name, n in earlier.items()}
        body.kept[LAST] = stages[-1]
    return _tried(body, wanted, image_size, mean, std, called)


def _require_known(name: str) -> None:
    if timm.is_model(name):
        return
    library, names = "timm", timm.list_models
    if name.startswith(TORCHVISION_PREFIX):
        library, names = "torchvision", torchvision_names
    if name not in names():
        close = get_close_matches(name, names(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "no name is close to it"
        raise BackboneError(f"backbone {name!r}: {library} has no such model; {hint}")


def _stage_before(stages: list[Any], name: str, n: int, called: str) -> Any:
    if not 0 < n < len(stages):
        raise BackboneError(
            f"{called} has no map {name!r} {n} stages before its last: there are {len(stages) - 1}"
        )
    return stages[-1 - n]


def _tried(
    body: nn.Module,
    names: list[str],
    image_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    called: str,
) -> Backbone:
    """Find each C by one forward pass of a blank picture, and refuse what is not a channels-first map."""

    def maps_at(width: int) -> Features:
        return _named(_on_blank(body, body, (image_size, width), called), names, called)

    maps = maps_at(image_size)
    for name, found in maps.items():
        if not _is_channels_first(found, lambda name=name: maps_at(2 * image_size)[name]):
            raise BackboneError(_layout_complaint(called, name, found, None))
    return Backbone(body, {name: found.shape[1] for name, found in maps.items()}, mean=mean, std=std)


def _on_blank(body: nn.Module, run: Callable[[Tensor], Any], size: tuple[int, int], called: str) -> Any:
    """What `run`, a part of `body`, gives for a blank picture of this height and width."""
    parameter = next(body.parameters(), torch.zeros(()))
    blank = torch.zeros(1, 3, *size, device=parameter.device, dtype=parameter.dtype)
    try:
        with torch.no_grad(), eval_mode(body):
            return run(blank)
    except Exception as error:  # whatever a foreign network says of a picture it cannot take
        raise BackboneError(f"{called} cannot read a {size[0]}-pixel picture: {one_line(error)}") from error


def _named(output: Any, names: Collection[str], called: str) -> Features:
    """The wanted maps of what a network returns: one bare map, or a mapping."""
    maps = output if isinstance(output, Mapping) else {LAST: output}
    missing = [name for name in names if name not in maps]
    if missing:
        raise BackboneError(
            f"{called} gives no map {missing[0]!r}, only {', '.join(map(str, maps))}: expected a mapping of "
            f"{', '.join(names)} to maps (B, C, H, W), or where only {LAST} is needed one bare map"
        )
    return {name: maps[name] for name in names}


def _is_channels_first(found: Any, of_wide_picture: Callable[[], Tensor]) -> bool:
    if not isinstance(found, Tensor) or found.ndim != 4:
        return False
    _, first, second, third = found.shape
    if first == second == third:
        # Only a picture of another width tells which axis is which.
        wide = of_wide_picture()
        return wide.shape[1] == first and wide.shape[3] != third
    return second == third


def _layout_complaint(called: str, name: str, found: Any, channels: int | None) -> str:
    got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    wanted = f"(B, {channels}, H, W)" if channels else "a channels-first map (B, C, H, W)"
    return (
        f"{called} returns {got} as {name!r}: expected {wanted}; permute channels-last maps with "
        ".permute(0, 3, 1, 2) and reshape tokens to their grid, without the class token"
    )


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Every module in eval mode inside the block, and in its own mode again after it."""
    training = [child for child in module.modules() if child.training]
    module.eval()
    try:
        yield
    finally:
        for child in training:
            child.training = True
