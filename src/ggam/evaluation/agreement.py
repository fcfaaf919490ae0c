"""How alike two rankings are: of channels by S and by β, of places by a model and by one that forgot."""

from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from ggam.backbones.build import eval_mode
from ggam.methods.base import FineGrainedModel

STAGES = ("head", "top quarter", "top half", "top three quarters", "whole backbone")
"""What the randomisation check has shuffled so far: the head, then ever more of the backbone."""


def rank_correlation(first: Tensor, second: Tensor) -> np.ndarray:
    """Spearman's rank correlation ρ of each row of two tensors, ties sharing their mean rank.

    Of S of Eq. (1) and β of Eq. (4), both (B, C), it is what guidance is about: how alike the channel
    attention and Grad-CAM rank the channels.

    Args:
        first: (N, …), on any device.
        second: (N, …), with as many entries.

    Returns:
        (N,), from −1 to 1; NaN where a row is constant.
    """
    ranks = [rankdata(values.float().cpu().flatten(1).numpy(), axis=1) for values in (first, second)]
    a, b = (values - values.mean(axis=1, keepdims=True) for values in ranks)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0)


def randomized(
    model: FineGrainedModel, images: Tensor, *, seed: int = 0
) -> Iterator[tuple[str, FineGrainedModel]]:
    """A copy of a model that forgets what it learnt, from the top down: the sanity check's models.

    Adebayo et al., "Sanity checks for saliency maps" (NeurIPS 2018), cascading randomisation: a map that
    stays the same does not show what the model has learnt. Here the entries of each weight tensor are
    shuffled rather than drawn anew: what was learnt is gone, the scale of the layer is kept, and the maps
    do not vanish only because the activations do.

    Args:
        model: not changed.
        images: a few pictures (B, 3, h, w), by which the order of the backbone's layers is seen.
        seed: of the shuffling.

    Yields:
        Each of `STAGES`, and the model, the same object every time.
    """
    copy = deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    backbone = set(copy.backbone.modules())
    for module in copy.modules():
        if module not in backbone:
            _shuffle(module, generator)
    yield STAGES[0], copy
    layers = _executed(copy.backbone, images)[::-1]
    bounds = [round(len(layers) * quarter / 4) for quarter in range(5)]
    for name, start, stop in zip(STAGES[1:], bounds[:-1], bounds[1:], strict=True):
        for module in layers[start:stop]:
            _shuffle(module, generator)
        yield name, copy


def _executed(backbone: nn.Module, images: Tensor) -> list[nn.Module]:
    """The modules of a backbone that have weights of their own, in the order in which they are run.

    A module that was not seen to run by itself (one whose weights its parent reads) counts as first.
    """
    own = [module for module in backbone.modules() if list(module.parameters(recurse=False))]
    seen: dict[nn.Module, None] = {}
    handles = [module.register_forward_hook(lambda module, *_: seen.setdefault(module)) for module in own]
    try:
        with torch.inference_mode(), eval_mode(backbone):
            backbone(images)
    finally:
        for handle in handles:
            handle.remove()
    return [*(module for module in own if module not in seen), *seen]


def _shuffle(module: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
