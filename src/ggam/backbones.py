"""Backbones: timm models, torchvision models and any `nn.Module`, all images (B, 3, h, w) → A (B, C, H, W)."""

import socket
import urllib.parse
import urllib.request
from collections import OrderedDict
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from huggingface_hub import constants, try_to_load_from_cache
from safetensors.torch import load_file
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TORCHVISION_PREFIX = "torchvision/"
_TORCHVISION_TAIL = {"avgpool", "classifier", "fc", "head", "heads", "flatten"}
_CONNECT_SECONDS = 3.0


class BackboneError(ValueError):
    """A backbone that cannot be built, or whose output is not a (B, C, H, W) map."""


class Backbone(nn.Module):
    """A network cut at the wanted stage: images (B, 3, h, w) → A (B, C, H, W).

    Attributes:
        body: the wrapped network.
        channels: C.
        mean: what the images are normalised with, per channel.
        std: likewise.
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
            raise BackboneError(_layout_complaint(features, self.channels))
        return features


class _TimmStage(nn.Module):
    """One stage of a timm model as an NCHW map, through `forward_intermediates`."""

    def __init__(self, model: nn.Module, index: int, norm: bool) -> None:
        super().__init__()
        self.model = model
        self.index = index
        self.norm = norm

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward_intermediates(  # pyright: ignore[reportCallIssue]
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

    Args:
        backbone: a timm name (`resnet50`), `torchvision/NAME`, or a module that maps images
            (B, 3, h, w) to (B, C, H, W).
        pretrained: load the ImageNet weights that timm or torchvision publish (downloaded on first
            use). Ignored for a module and where `weights` is given.
        weights: a file to load instead: safetensors, or a state dict that `torch.load` reads with
            `weights_only=True`. A classifier in it is dropped; any other mismatch is an error.
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
        return _wrap_module(backbone, image_size)
    published = pretrained and weights is None
    if backbone.startswith(TORCHVISION_PREFIX):
        built, removed = _torchvision_backbone(backbone, published, stage)
    else:
        built, removed = _timm_backbone(backbone, published, stage, image_size)
    if weights is not None:
        _load_weights(built, Path(weights), removed)
    if backbone.startswith(TORCHVISION_PREFIX):
        built = _wrap_module(built, image_size)
    assert isinstance(built, Backbone)
    return built


def _timm_backbone(
    name: str, published: bool, stage: int | str | None, image_size: int
) -> tuple[Backbone, set[str]]:
    """The cut model, and the state-dict keys of the full model that the cut removed."""
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models()"
        raise BackboneError(f"backbone {name!r}: timm has no such model; {hint}")
    config = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {"img_size": image_size} if config and config.fixed_input_size else {}
    if published:
        _require_timm_weights(name, config)
    try:
        model = timm.create_model(name, pretrained=published, **options)
    except (RuntimeError, AssertionError, OSError) as error:
        raise BackboneError(f"backbone {name!r} at {image_size} pixels: {error}") from error
    if not hasattr(model, "forward_intermediates"):
        raise BackboneError(f"backbone {name!r}: timm cannot read its stages as maps; choose another")
    stages = model.feature_info
    index = _stage_index(name, stage, len(stages))
    last = index == len(stages) - 1
    full = set(model.state_dict())
    model.prune_intermediate_layers([index], prune_norm=not last, prune_head=True)
    mean, std = tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"])
    body = _TimmStage(model, index, norm=last)
    return Backbone(body, stages[index]["num_chs"], mean=mean, std=std), full - set(model.state_dict())


def _stage_index(name: str, stage: int | str | None, count: int) -> int:
    index = -1 if stage is None else stage
    if not isinstance(index, int) or not -count <= index < count:
        raise BackboneError(
            f"stage {stage!r} of {name!r}: expected an index from 0 to {count - 1}, or negative from the end"
        )
    return index % count


def _torchvision_backbone(
    name: str, published: bool, stage: int | str | None
) -> tuple[nn.Sequential, set[str]]:
    known = torchvision.models.list_models(module=torchvision.models)
    short = name.removeprefix(TORCHVISION_PREFIX)
    if short not in known:
        close = [TORCHVISION_PREFIX + match for match in get_close_matches(short, known, n=3)]
        hint = f"did you mean {' or '.join(close)}?" if close else "see torchvision.models.list_models()"
        raise BackboneError(f"backbone {name!r}: torchvision has no such model; {hint}")
    if published:
        _require_torchvision_weights(short)
    model = torchvision.models.get_model(short, weights="DEFAULT" if published else None)
    if getattr(model, "aux_logits", False) or short in ("googlenet", "inception_v3"):
        model.aux_logits, model.AuxLogits, model.aux1, model.aux2 = False, None, None, None
    trunk = OrderedDict()
    for child, module in model.named_children():
        if child in _TORCHVISION_TAIL:
            break
        trunk[child] = module
    if stage is not None:
        trunk = _cut(trunk, name, stage)
    cut = nn.Sequential(trunk)
    return cut, set(model.state_dict()) - set(cut.state_dict())


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
        kept[head] = nn.Sequential(_cut(dict(kept[head].named_children()), f"{name} {head}", rest))
    return kept


def _wrap_module(module: nn.Module, image_size: int) -> Backbone:
    """Find C by one forward pass of a blank picture, and refuse what is not a channels-first map."""
    parameter = next(module.parameters(), torch.zeros(()))
    modes = {child: child.training for child in module.modules()}
    blank = torch.zeros(1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype)
    module.eval()
    try:
        with torch.no_grad():
            features = module(blank)
            _require_channels_first(module, features, blank)
    except BackboneError:
        raise
    except Exception as error:  # whatever a foreign network says of a picture it cannot take
        reason = " ".join(str(error).split())[:200]
        raise BackboneError(f"the backbone cannot read a {image_size}-pixel picture: {reason}") from error
    finally:
        for child, training in modes.items():
            child.training = training
    return Backbone(module, features.shape[1])


def _require_channels_first(module: nn.Module, features: Any, blank: Tensor) -> None:
    if not isinstance(features, Tensor) or features.ndim != 4:
        raise BackboneError(_layout_complaint(features, None))
    _, first, second, third = features.shape
    if second == third and first != second:
        return
    if first == second == third:
        # Only a picture of another width tells which axis is which.
        wide = module(torch.cat([blank, blank], dim=3))
        if wide.shape[1] == first and wide.shape[3] != third:
            return
    raise BackboneError(_layout_complaint(features, None))


def _layout_complaint(features: Any, channels: int | None) -> str:
    got = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
    wanted = f"(B, {channels}, H, W)" if channels else "a channels-first map (B, C, H, W)"
    return (
        f"the backbone returns {got}: expected {wanted}; permute channels-last maps with "
        ".permute(0, 3, 1, 2) and reshape tokens to their grid, without the class token"
    )


def _load_weights(model: nn.Module, file: Path, removed: Collection[str]) -> None:
    """Load a file strictly, but for the keys of layers that were cut off."""
    state = _read_state(file)
    prefix = "body.model." if isinstance(model, Backbone) else ""
    wanted = {key.removeprefix(prefix): value for key, value in model.state_dict().items()}
    unexpected = sorted(set(state) - set(wanted) - set(removed))
    missing = sorted(key for key in set(wanted) - set(state) if not key.endswith("num_batches_tracked"))
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in sorted(set(state) & set(wanted))
        if state[key].shape != wanted[key].shape
    ]
    problems = [
        f"{what}: {', '.join(keys[:8])}{f' and {len(keys) - 8} more' if len(keys) > 8 else ''}"
        for what, keys in (("missing keys", missing), ("unknown keys", unexpected), ("other shapes", shapes))
        if keys
    ]
    if problems:
        raise BackboneError(f"weights {file} do not fit this backbone: {'; '.join(problems)}")
    model.load_state_dict({prefix + key: state[key] for key in wanted if key in state}, strict=False)


def _read_state(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise BackboneError(f"weights {file}: no such file; expected .safetensors or a torch state dict")
    try:
        if file.suffix == ".safetensors":
            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has errors of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackboneError(
            f"weights {file} cannot be read ({reason}): expected .safetensors or a state dict of tensors"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BackboneError(f"weights {file}: expected a state dict, names to tensors")
    return {_plain_key(key): value for key, value in state.items()}


def _plain_key(key: str) -> str:
    """A parameter's name without what DataParallel and torch.compile put around it."""
    return key.replace("_orig_mod.", "").removeprefix("module.")


def _require_timm_weights(name: str, config: Any) -> None:
    if config is None or not config.has_weights:
        raise BackboneError(
            f"backbone {name!r}: timm has no pre-trained weights for it; pass pretrained=False"
        )
    if config.hf_hub_id:
        cached = any(
            isinstance(try_to_load_from_cache(config.hf_hub_id, file), str)
            for file in (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin")
            if file
        )
        address = constants.ENDPOINT
    else:
        cached = _in_torch_cache(config.url)
        address = config.url
    if not cached:
        _require_network(name, address)


def _require_torchvision_weights(short: str) -> None:
    url = torchvision.models.get_model_weights(short)["DEFAULT"].url
    if not _in_torch_cache(url):
        _require_network(TORCHVISION_PREFIX + short, url)


def _in_torch_cache(url: str) -> bool:
    return Path(torch.hub.get_dir(), "checkpoints", Path(urllib.parse.urlparse(url).path).name).is_file()


def _require_network(name: str, address: str) -> None:
    """Fail at once, instead of after a minute of retries, where nothing can be downloaded."""
    host = urllib.parse.urlparse(address).hostname or ""
    advice = "pass a file with --weights, or train from scratch with --no-pretrained"
    if constants.HF_HUB_OFFLINE:
        raise BackboneError(
            f"pre-trained weights of {name!r} are not on this machine and it is offline: {advice}"
        )
    if urllib.request.getproxies():
        return
    try:
        socket.create_connection((host, 443), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise BackboneError(
            f"pre-trained weights of {name!r} are not on this machine and {host} cannot be reached: {advice}"
        ) from error
