"""Backbones: timm models, torchvision models, any `nn.Module`; images (B, 3, h, w) → A (B, C, H, W)."""

import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from huggingface_hub import constants, try_to_load_from_cache
from torch import Tensor, nn

from ggam.backbones.weights import BackboneError, in_torch_cache, misfits, read_state, require_download

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TORCHVISION_PREFIX = "torchvision/"
_TORCHVISION_TAIL = {"avgpool", "classifier", "fc", "head", "heads", "flatten"}
_TORCHVISION_INCEPTIONS = ("googlenet", "inception_v3")


class Backbone(nn.Module):
    """A network cut at the wanted stage: images (B, 3, h, w) → A (B, C, H, W).

    Attributes:
        body: the wrapped network.
        channels: C.
        mean: what is subtracted from the images, scaled to 0…1, per channel.
        std: what they are then divided by.
    """

    def __init__(
        self,
        body: nn.Module,
        channels: int,
        *,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.body = body
        self.channels = channels
        self.mean = mean
        self.std = std

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, h, w) → A (B, C, H, W).

        Raises:
            BackboneError: if the network returns anything else.
        """
        features = self.body(images)
        if not isinstance(features, Tensor) or features.ndim != 4 or features.shape[1] != self.channels:
            raise BackboneError(_layout_complaint("the backbone", features, self.channels))
        return features


class _TimmStage(nn.Module):
    """One stage of a timm model as an NCHW map, through `forward_intermediates`."""

    def __init__(self, model: Any, index: int, norm: bool) -> None:
        super().__init__()
        self.model = model
        self.index = index
        self.norm = norm

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward_intermediates(
            images, indices=[self.index], norm=self.norm, output_fmt="NCHW", intermediates_only=True
        )[0]


def create_backbone(
    backbone: str | nn.Module,
    *,
    pretrained: bool = True,
    weights: Path | str | None = None,
    stage: int | str | None = None,
    image_size: int = 448,
) -> Backbone:
    """Build a backbone that ends at one feature map.

    The result is tried on one blank picture, so that what does not work fails here.

    Args:
        backbone: a timm name (`resnet50`), `torchvision/NAME`, or a module that maps images
            (B, 3, h, w) to (B, C, H, W).
        pretrained: load the ImageNet weights that timm or torchvision publish (downloaded on first
            use). Ignored for a module and where `weights` is given.
        weights: a file to load instead: safetensors, or a state dict that `torch.load` reads with
            `weights_only=True`. Layers that are cut off, such as the classifier, may be in it;
            any other mismatch is an error.
        stage: which map to take; None is the last. For timm an index into the model's stages
            (-2: the last but one), for torchvision the name of a submodule (`layer3`,
            `features.10`). Layers behind it are removed.
        image_size: height and width in pixels; models with position tables are built for it.

    Raises:
        BackboneError: for an unknown name or stage, weights that do not fit or cannot be had, or
            an output that is not a channels-first map.
    """
    if isinstance(backbone, nn.Module):
        if weights is not None or stage is not None:
            raise BackboneError(
                "weights and stage belong to named backbones: load and cut your module before passing it"
            )
        return _wrap(backbone, image_size, IMAGENET_MEAN, IMAGENET_STD, "the backbone")
    file = None if weights is None else Path(weights)
    published = pretrained and file is None
    if backbone.startswith(TORCHVISION_PREFIX):
        return _torchvision_backbone(backbone, published, file, stage, image_size)
    return _timm_backbone(backbone, published, file, stage, image_size)


def _timm_backbone(
    name: str, published: bool, file: Path | None, stage: int | str | None, image_size: int
) -> Backbone:
    model = _timm_model(name, published, image_size)
    if not hasattr(model, "forward_intermediates"):
        raise BackboneError(f"backbone {name!r}: timm cannot read its stages as maps; choose another")
    index = _stage_index(name, stage, len(model.feature_info))
    last = index == len(model.feature_info) - 1
    full = set(model.state_dict())
    model.prune_intermediate_layers([index], prune_norm=not last, prune_head=True)
    if file is not None:
        removed = full - set(model.state_dict())
        state = read_state(file)
        if misfits(model, state, removed):
            state = _adapted(_timm_model(name, False, image_size), state)
        _load(model, state, removed, file)
    mean, std = tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"])
    return _wrap(_TimmStage(model, index, norm=last), image_size, mean, std, f"backbone {name!r}")


def _timm_model(name: str, published: bool, image_size: int) -> Any:
    if not timm.is_model(name):
        raise BackboneError(
            f"backbone {name!r}: timm has no such model; {_did_you_mean(name, timm.list_models())}"
        )
    try:
        known = timm.get_pretrained_cfg(name)
        options: dict[str, Any] = {"img_size": image_size} if known and known.fixed_input_size else {}
        source = _timm_source(name, known) if published else {}
        return timm.create_model(name, pretrained=published, **options, **source)
    except (RuntimeError, AssertionError, OSError) as error:
        raise BackboneError(f"backbone {name!r} at {image_size} pixels: {_one_line(error)}") from error


def _timm_source(name: str, known: Any) -> dict[str, Any]:
    """Where timm is to take its published weights from: its own choice, or a file that is here already.

    Given a downloaded file, timm need not ask the network whether it is the newest.
    """
    if known is None or not known.has_weights:
        raise BackboneError(
            f"backbone {name!r}: timm has no pre-trained weights for it; train from scratch with "
            "--no-pretrained, or pass a file with --weights"
        )
    if not known.hf_hub_id:
        if not in_torch_cache(known.url):
            require_download(name, known.url)
        return {}
    for file in (known.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
        cached = try_to_load_from_cache(known.hf_hub_id, file) if file else None
        if isinstance(cached, str):
            return {"pretrained_cfg_overlay": {"file": cached}}
    require_download(name, constants.ENDPOINT)
    return {}


def _adapted(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict through timm's own conversion for this family: older names, other image sizes."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return convert(dict(state), model)
    except Exception:  # made for known files only; the caller says what does not fit
        return state


def _stage_index(name: str, stage: int | str | None, count: int) -> int:
    index = -1 if stage is None else stage
    if not isinstance(index, int) or not -count <= index < count:
        raise BackboneError(
            f"stage {stage!r} of {name!r}: expected an index from 0 to {count - 1}, or negative from the end"
        )
    return index % count


def _torchvision_backbone(
    name: str, published: bool, file: Path | None, stage: int | str | None, image_size: int
) -> Backbone:
    zoo = torchvision.models.list_models(module=torchvision.models)
    short = name.removeprefix(TORCHVISION_PREFIX)
    if short not in zoo:
        names = [TORCHVISION_PREFIX + each for each in zoo]
        raise BackboneError(f"backbone {name!r}: torchvision has no such model; {_did_you_mean(name, names)}")
    if published:
        url = torchvision.models.get_model_weights(short)["DEFAULT"].url
        if not in_torch_cache(url):
            require_download(name, url)
    inception = short in _TORCHVISION_INCEPTIONS
    # Without weights, the inceptions warn unless they are told how to initialise.
    options = {"init_weights": True} if inception and not published else {}
    try:
        model = torchvision.models.get_model(short, weights="DEFAULT" if published else None, **options)
    except OSError as error:
        raise BackboneError(f"backbone {name!r}: {_one_line(error)}") from error
    trunk = _torchvision_trunk(short, model)
    cut = nn.Sequential(trunk if stage is None else _cut(trunk, name, stage))
    if file is not None:
        _load(cut, read_state(file), set(model.state_dict()) - set(cut.state_dict()), file)
    # Their forward turns ImageNet's normalisation into this one, before the first layer.
    mean, std = ((0.5,) * 3, (0.5,) * 3) if inception else (IMAGENET_MEAN, IMAGENET_STD)
    return _wrap(cut, image_size, mean, std, f"backbone {name!r}")


def _torchvision_trunk(short: str, model: nn.Module) -> "OrderedDict[str, nn.Module]":
    """The layers up to the last feature map, as the model's own forward applies them."""
    trunk: OrderedDict[str, nn.Module] = OrderedDict()
    for name, module in model.named_children():
        if name in _TORCHVISION_TAIL:
            break
        if not name.lower().startswith("aux"):  # the inceptions' training-time classifiers
            trunk[name] = nn.Sequential(*module) if isinstance(module, nn.ModuleList) else module
    if short.startswith("densenet"):
        trunk["relu"] = nn.ReLU()  # a function in its forward, not a module
    return trunk


def _cut(trunk: Mapping[str, nn.Module], name: str, stage: int | str) -> "OrderedDict[str, nn.Module]":
    """The layers of `trunk` up to and including the submodule called `stage`."""
    head, _, rest = str(stage).partition(".")
    if head not in trunk:
        raise BackboneError(
            f"stage {stage!r} of {name!r}: expected one of {', '.join(trunk)}, or a part of one"
        )
    kept: OrderedDict[str, nn.Module] = OrderedDict()
    for child, module in trunk.items():
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


def _wrap(
    body: nn.Module, image_size: int, mean: tuple[float, ...], std: tuple[float, ...], called: str
) -> Backbone:
    """Find C by one forward pass of a blank picture, and refuse what is not a channels-first map."""
    parameter = next(body.parameters(), torch.zeros(()))
    blank = torch.zeros(1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype)
    try:
        with torch.no_grad(), eval_mode(body):
            features = body(blank)
            channels_first = _is_channels_first(body, features, blank)
    except Exception as error:  # whatever a foreign network says of a picture it cannot take
        raise BackboneError(
            f"{called} cannot read a {image_size}-pixel picture: {_one_line(error)}"
        ) from error
    if not channels_first:
        raise BackboneError(_layout_complaint(called, features, None))
    return Backbone(body, features.shape[1], mean=mean, std=std)


def _is_channels_first(module: nn.Module, features: Any, blank: Tensor) -> bool:
    if not isinstance(features, Tensor) or features.ndim != 4:
        return False
    _, first, second, third = features.shape
    if first == second == third:
        # Only a picture of another width tells which axis is which.
        wide = module(torch.cat([blank, blank], dim=3))
        return wide.shape[1] == first and wide.shape[3] != third
    return second == third


def _layout_complaint(called: str, features: Any, channels: int | None) -> str:
    got = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
    wanted = f"(B, {channels}, H, W)" if channels else "a channels-first map (B, C, H, W)"
    return (
        f"{called} returns {got}: expected {wanted}; permute channels-last maps with "
        ".permute(0, 3, 1, 2) and reshape tokens to their grid, without the class token"
    )


def _load(model: nn.Module, state: Mapping[str, Tensor], removed: set[str], file: Path) -> None:
    """Load strictly, but for the keys of layers that were cut off."""
    problems = misfits(model, state, removed)
    if problems:
        raise BackboneError(f"weights {file} do not fit this backbone: {problems}")
    wanted = set(model.state_dict())
    model.load_state_dict({key: value for key, value in state.items() if key in wanted}, strict=False)


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


def _did_you_mean(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else "no name is close to it"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
