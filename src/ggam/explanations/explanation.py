"""Explanations: the Grad-CAM map of each image at the price of a forward pass, and other maps beside it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ggam.backbones.build import eval_mode
from ggam.equations.gradcam import checked_classes, gradcam_map
from ggam.methods.base import PREDICTED, FineGrainedModel
from ggam.methods.registry import METHODS

MAP_TITLES: Mapping[str, str] = {"gradcam": "Grad-CAM"} | {
    kind: title for method in METHODS.values() for kind, title in method.map_titles.items()
}
"""The kinds of heat map, see `explain_maps`, and what people call them."""


class Explanation(NamedTuple):
    """What a model sees in a batch of images; all tensors detached, on the model's device.

    Asked about one class per image, M is left out of the shapes: `classes` is (B,), `maps` (B, H, W).
    """

    logits: Tensor
    """y (B, K), before softmax."""
    classes: Tensor
    """The explained class k of each image (B,), or M of them (B, M)."""
    maps: Tensor
    """Grad-CAM heat maps L_map (B, H, W) or (B, M, H, W), at the size of the feature map, not normalised."""
    weights: Tensor
    """Grad-CAM channel weights β (B, C) or (B, M, C), at `attended`."""
    features: Tensor
    """A (B, C, H, W), the feature map of the backbone."""
    attended: Tensor
    """D (B, C, H, W), the feature map that is explained; A where nothing attends."""
    shown: dict[str, Tensor]
    """What else the method can show, by name, as in `Output.maps`."""

    @property
    def empty(self) -> Tensor:
        """Which maps are nowhere above zero, bool (B,) or (B, M): nothing speaks for the class there."""
        return ~(self.maps > 0).flatten(-2).any(dim=-1)

    @property
    def normalized(self) -> Tensor:
        """The maps divided by their maxima, 0 to 1; an empty map is zero everywhere."""
        peaks = self.maps.amax(dim=(-2, -1), keepdim=True)
        empty = self.empty[..., None, None]
        return (self.maps / peaks.masked_fill(empty, 1)).masked_fill(empty, 0)


def explain(model: FineGrainedModel, images: Tensor, classes: Tensor | None = None) -> Explanation:
    """Classify images and say where the model looked (Eq. 4 and the heat map of it).

    Grad-CAM is taken at the feature map that is classified: at D behind the attention, at A where there
    is none. The backbone's pass over the images records no gradients; only the head is differentiated, once
    per class. The model is evaluated in eval mode whatever mode it is in, and left in the mode it was
    in. Works under `torch.no_grad`, `torch.inference_mode` and autocast.

    Args:
        model: a model of this package; for any other see `ggam.explain_module`.
        images: (B, 3, h, w), normalised as the model expects; moved to the model's device.
        classes: the class to explain for each image (B,), or M classes for each (B, M), −1 for the
            predicted one; None explains the predicted one of each.

    Returns:
        Logits, explained classes, maps and what they were made from. A map is all zero where no
        channel speaks for the class (`Explanation.empty`).

    Raises:
        ValueError: if the images are not (B, 3, h, w) or the classes do not fit them.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images of shape {tuple(images.shape)}: expected (B, 3, h, w)")
    device = next(model.parameters()).device
    images = images.to(device)
    if classes is not None:
        classes = fitting_classes(classes, len(images), model.num_classes, lowest=PREDICTED).to(device)
    with eval_mode(model), uncached_autocast(device):
        output, explained, weights = model.gradcam(images, classes)
        with torch.inference_mode(False), torch.no_grad():
            maps = weighted_maps(output.attended, weights)
    return Explanation(output.logits, explained, maps, weights, output.features, output.attended, output.maps)


def available_maps(model: FineGrainedModel) -> tuple[str, ...]:
    """Which kinds of `MAP_TITLES` a model has: always `gradcam`, and what its method shows beside it."""
    return ("gradcam", *model.map_kinds)


def explain_maps(
    model: FineGrainedModel,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    kinds: Sequence[str] | None = None,
) -> tuple[Explanation, dict[str, Tensor]]:
    """The explanation of a batch of images, and every kind of heat map of it.

    * `gradcam`: ReLU(Σ_c β_c D_c), β_c = 1/(HW) Σ_ij ∂y_k/∂D_cij, at the attended map D, where the authors'
      scripts take it; D is A where there is no attention.
    * `gradcam-features`: ReLU(Σ_c β_c A_c), β_c = 1/(HW) Σ_ij ∂y_k/∂A_cij (Eq. 4), at the feature map A
      before the attention. The gradient goes through S and T too, and the ratio of Eq. (3) couples all
      positions. It takes a second pass.
    * `spatial`: T of Eq. (3), the same for every class.
    * `channel`: ReLU(Σ_c S_c A_c), the Grad-CAM formula with S in the place of β, the same for every
      class. For A ≥ 0 it is the numerator of Eq. (3), so T by the ratio is this map normalised.
    * what other methods show, by the names of their `Output.maps`, in the same two ways.

    Args:
        model: a model of this package.
        images: as for `explain`.
        classes: as for `explain`.
        kinds: which of them; None takes all that the model has, see `available_maps`.

    Returns:
        The explanation, and kind to maps, not normalised, each of the shape of `Explanation.maps`, in the
        order of `kinds`.

    Raises:
        ValueError: as `explain`, or for a kind that does not exist or that the model does not have.
    """
    chosen = available_maps(model) if kinds is None else checked_kinds(model, kinds)
    explanation = explain(model, images, classes)
    return explanation, {kind: _map(model, images, explanation, kind) for kind in chosen}


def checked_kinds(model: FineGrainedModel, kinds: Sequence[str]) -> Sequence[str]:
    """The kinds of map, once it is known that the model has them.

    Raises:
        ValueError: for a kind that does not exist or that the model does not have.
    """
    available = available_maps(model)
    for kind in kinds:
        if kind not in available:
            what = f"this {model.config.method} model has only" if kind in MAP_TITLES else "expected"
            raise ValueError(f"map {kind!r}: {what} {', '.join(available)}")
    return kinds


def weights_at_features(model: FineGrainedModel, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """A (B, C, H, W), and β (B, C) or (B, M, C) of Eq. (4) at A, through the attention.

    Args:
        model: a model of this package, evaluated in eval mode.
        images: (B, 3, h, w), normalised; moved to the model's device.
        classes: the explained classes (B,) or (B, M).
    """
    device = next(model.parameters()).device
    with eval_mode(model), uncached_autocast(device):
        output, _, weights = model.gradcam(images.to(device), classes, at="features")
    return output.features, weights


def weighted_maps(features: Tensor, weights: Tensor) -> Tensor:
    """ReLU(Σ_c w_c F_c): features (B, C, H, W), weights (B, C) or (B, M, C) → (B, H, W) or (B, M, H, W)."""
    if weights.ndim == 2:
        return gradcam_map(features, weights)
    return torch.stack([gradcam_map(features, column) for column in weights.unbind(1)], dim=1)


def _map(model: FineGrainedModel, images: Tensor, explanation: Explanation, kind: str) -> Tensor:
    if kind == "gradcam":
        return explanation.maps
    if kind == "gradcam-features":
        return weighted_maps(*weights_at_features(model, images, explanation.classes))
    shown = explanation.shown[kind]
    single = gradcam_map(explanation.features, shown)[:, None] if shown.ndim == 2 else shown
    size = explanation.maps.shape[-2:]
    if single.shape[-2:] != size:  # of an earlier stage
        single = F.interpolate(single, size=size, mode="bilinear", antialias=True)
    return single.expand_as(explanation.maps) if explanation.maps.ndim == 4 else single[:, 0]


def fitting_classes(classes: Tensor, count: int, num_classes: int, *, lowest: int = 0) -> Tensor:
    """A copy of the classes to explain as int64, once they are known to fit.

    Args:
        classes: k for each image (B,), or M of them (B, M); may come from `torch.inference_mode`.
        count: B, the images.
        num_classes: K.
        lowest: the smallest number that is allowed.

    Raises:
        ValueError: if they are not integers from `lowest` to K - 1, as many for each image.
    """
    if classes.ndim == 2 and len(classes) == count and classes.shape[1]:
        flat = checked_classes(classes.reshape(-1), classes.numel(), num_classes, lowest=lowest)
        return flat.view(classes.shape).clone()
    return checked_classes(classes, count, num_classes, lowest=lowest).clone()


def stacked_like(classes: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """The results of M classes, each (B, …), as (B, M, …), or as they are for classes (B,)."""
    return parts[0] if classes.ndim == 1 else torch.stack(list(parts), dim=1)


def uncached_autocast(device: torch.device) -> torch.autocast:
    """Autocast as it is around, but without its cache of weights: one pass has no use for it."""
    return torch.autocast(
        device.type,
        dtype=torch.get_autocast_dtype(device.type),
        enabled=torch.is_autocast_enabled(device.type),
        cache_enabled=False,
    )
