"""torchvision's networks as backbones: their layers in a row, cut, given weights, and listened to."""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn

from ggam.backbones.weights import (
    BackboneError,
    in_torch_cache,
    load_weights,
    one_line,
    read_state,
    require_download,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TORCHVISION_PREFIX = "torchvision/"
_TAIL = {"avgpool", "classifier", "fc", "head", "heads", "flatten"}
_INCEPTIONS = ("googlenet", "inception_v3")


class Trunk(nn.Sequential):
    """The layers of a torchvision model up to its last map.

    Attributes:
        kept: names and paths (`layer3`, `features.35`) of the layers whose outputs to return; if empty,
            that of the last layer is returned bare.
    """

    def __init__(self, layers: "OrderedDict[str, nn.Module]") -> None:
        super().__init__(layers)
        self.kept: dict[str, str] = {}

    def forward(self, input: Tensor) -> Tensor | dict[str, Tensor]:
        """Images (B, 3, h, w) → (B, C, H, W), or such maps by name."""
        if not self.kept:
            return super().forward(input)
        outputs: dict[str, Tensor] = {}
        _run(self, input, set(self.kept.values()), outputs)
        return {name: outputs[path] for name, path in self.kept.items()}

    def stages(self, images: Tensor) -> list[str]:
        """The last layer at each resolution, in order, as `kept` takes them.

        A stage is a run of layers with outputs of one height and width. Sequences of layers are looked
        into, blocks are not: a VGG's stages end right before its poolings.
        """
        outputs: dict[str, Tensor] = {}
        _run(self, images, set(_paths(self)), outputs)
        sizes = [(path, output.shape[2:]) for path, output in outputs.items()]
        ends = [path for (path, size), (_, following) in pairwise(sizes) if size != following]
        return [*ends, sizes[-1][0]]


def _run(
    layers: nn.Module, images: Tensor, wanted: Collection[str], outputs: dict[str, Tensor], above: str = ""
) -> Tensor:
    """Run layers in a row, and keep the outputs of those in `wanted`, also inside nested sequences."""
    for name, layer in layers.named_children():
        path = above + name
        if any(each.startswith(f"{path}.") for each in wanted):
            images = _run(layer, images, wanted, outputs, f"{path}.")
        else:
            images = layer(images)
        if path in wanted:
            outputs[path] = images
    return images


def _paths(layers: nn.Module, above: str = "") -> Iterator[str]:
    """The layers that are run one after the other; a subclass of `nn.Sequential` counts as one."""
    for name, layer in layers.named_children():
        yield above + name
        if type(layer) is nn.Sequential:
            yield from _paths(layer, f"{above}{name}.")


def torchvision_names() -> list[str]:
    """The networks there are, as `torchvision/NAME`."""
    return [TORCHVISION_PREFIX + name for name in torchvision.models.list_models(torchvision.models)]


def torchvision_trunk(
    name: str, *, published: bool, file: Path | None, stage: int | str | None
) -> tuple[Trunk, tuple[float, ...], tuple[float, ...]]:
    """Build a torchvision model that ends at a map; the arguments are those of `create_backbone`.

    Returns:
        The layers, and the mean and standard deviation of the pictures they take.

    Raises:
        BackboneError: if there is no such stage, or the weights do not fit or cannot be had.
    """
    short = name.removeprefix(TORCHVISION_PREFIX)
    if published:
        url = torchvision.models.get_model_weights(short)["DEFAULT"].url
        if not in_torch_cache(url):
            require_download(name, url)
    inception = short in _INCEPTIONS
    # Without weights, the inceptions warn unless they are told how to initialise.
    options: dict[str, Any] = {"init_weights": True} if inception and not published else {}
    try:
        model = torchvision.models.get_model(short, weights="DEFAULT" if published else None, **options)
    except OSError as error:
        raise BackboneError(f"backbone {name!r}: {one_line(error)}") from error
    layers = _layers(short, model)
    trunk = Trunk(layers if stage is None else _cut(layers, name, stage))
    if file is not None:
        load_weights(trunk, read_state(file), set(model.state_dict()) - set(trunk.state_dict()), file)
    # Their forward turns ImageNet's normalisation into this one, before the first layer.
    mean, std = ((0.5,) * 3, (0.5,) * 3) if inception else (IMAGENET_MEAN, IMAGENET_STD)
    return trunk, mean, std


def _layers(short: str, model: nn.Module) -> "OrderedDict[str, nn.Module]":
    """The layers up to the last feature map, as the model's own forward applies them."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, module in model.named_children():
        if name in _TAIL:
            break
        if not name.lower().startswith("aux"):  # the inceptions' training-time classifiers
            layers[name] = nn.Sequential(*module) if isinstance(module, nn.ModuleList) else module
    if short.startswith("densenet"):
        layers["relu"] = nn.ReLU()  # a function in its forward, not a module
    return layers


def _cut(layers: Mapping[str, nn.Module], name: str, stage: int | str) -> "OrderedDict[str, nn.Module]":
    """The layers up to and including the submodule called `stage`."""
    head, _, rest = str(stage).partition(".")
    if head not in layers:
        raise BackboneError(
            f"stage {stage!r} of {name!r}: expected one of {', '.join(layers)}, or a part of one"
        )
    kept: OrderedDict[str, nn.Module] = OrderedDict()
    for child, module in layers.items():
        kept[child] = module
        if child == head:
            break
    if rest:
        block = kept[head]
        if not isinstance(block, nn.Sequential):
            raise BackboneError(
                f"stage {stage!r} of {name!r}: {head} is no plain sequence of layers and cannot be cut inside"
            )
        kept[head] = nn.Sequential(_cut(dict(block.named_children()), f"{name} {head}", rest))
    return kept
