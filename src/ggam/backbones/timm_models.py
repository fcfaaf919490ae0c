"""timm's networks as backbones: how one is built, cut and given its weights."""

import sys
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants, try_to_load_from_cache
from torch import Tensor, nn

from ggam.backbones.weights import (
    BackboneError,
    in_torch_cache,
    load_weights,
    misfits,
    one_line,
    read_state,
    require_download,
)


class TimmStages(nn.Module):
    """Stages of a timm model as NCHW maps, through `forward_intermediates`.

    Attributes:
        model: the network, without what lies behind the last of the stages.
        index: of the last stage.
        norm: whether that ends in the network's own norm. Networks that norm their intermediate maps
            with it as well (ViT) norm the earlier ones too.
        kept: names and indices of the stages to return; if empty, the map of the last is returned bare.
    """

    def __init__(self, model: Any, index: int, norm: bool) -> None:
        super().__init__()
        self.model = model
        self.index = index
        self.norm = norm
        self.kept: dict[str, int] = {}

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """Images (B, 3, h, w) → (B, C, H, W), or such maps by name."""
        indices = sorted({self.index, *self.kept.values()})
        maps = self.model.forward_intermediates(
            images, indices=indices, norm=self.norm, output_fmt="NCHW", intermediates_only=True
        )
        return {name: maps[indices.index(i)] for name, i in self.kept.items()} if self.kept else maps[0]

    def stages(self, images: Tensor) -> list[int]:
        """All stages up to the last, as `kept` takes them; the images are not needed for it."""
        return list(range(self.index + 1))


def timm_stages(
    name: str, *, published: bool, file: Path | None, stage: int | str | None, image_size: int
) -> tuple[TimmStages, tuple[float, ...], tuple[float, ...]]:
    """Build a timm model that ends at a stage; the arguments are those of `create_backbone`.

    Returns:
        The model, and the mean and standard deviation of the pictures it takes.

    Raises:
        BackboneError: if it has no such stage, or the weights do not fit or cannot be had.
    """
    model = _create(name, published, image_size)
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
            state = _adapted(_create(name, False, image_size), state)
        load_weights(model, state, removed, file)
    mean, std = tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"])
    return TimmStages(model, index, norm=last), mean, std


def _create(name: str, published: bool, image_size: int) -> Any:
    try:
        known = timm.get_pretrained_cfg(name)
        options: dict[str, Any] = {"img_size": image_size} if known and known.fixed_input_size else {}
        source = _source(name, known) if published else {}
        return timm.create_model(name, pretrained=published, **options, **source)
    except (RuntimeError, AssertionError, OSError) as error:
        raise BackboneError(f"backbone {name!r} at {image_size} pixels: {one_line(error)}") from error


def _source(name: str, known: Any) -> dict[str, Any]:
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
