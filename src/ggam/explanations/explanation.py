"""Explanations: the Grad-CAM map of each image at the price of a forward pass, and other maps beside it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ggam.backbones.build import eval_mode
from ggam.equations.attention import Attention, ChannelSpatialAttention
from ggam.equations.gradcam import checked_classes, gradcam_map
from ggam.methods.base import FineGrainedModel, Output

MAP_TITLES = {
    "gradcam": "Grad-CAM",
    "gradcam-features": "Grad-CAM before the attention",
    "spatial": "Attention T",
    "channel": "Channel attention S",
}
"""The kinds of heat map, see `map_kinds`, and what people call them."""
MAPS = tuple(MAP_TITLES)


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
    attention: Attention | None
    """S, T and D, for methods that have them."""

    @property
    def attended(self) -> Tensor:
        """D (B, C, H, W), the feature map that is classified and explained; A where there is no attention."""
        return Output(self.logits, self.features, self.attention).attended

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
    is none. The backbone runs once, without recording gradients; only the head is differentiated, once per
    class. The model is evaluated in eval mode whatever mode it is in, and left in the mode it was
    in. Works under `torch.no_grad`, `torch.inference_mode` and autocast.

    Args:
        model: a model of this package; for any other see `ggam.explain_module`.
        images: (B, 3, h, w), normalised as the model expects; moved to the model's device.
        classes: the class to explain for each image (B,), or M classes for each (B, M); None
            explains the predicted one.

    Returns:
        Logits, explained classes, maps and what they were made from. A map is all zero where no
        channel speaks for the class (`Explanation.empty`).

    Raises:
        ValueError: if the images are not (B, 3, h, w) or the classes do not fit them.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images of shape {tuple(images.shape)}: expected (B, 3, h, w)")
    device = next(model.parameters()).device
    with torch.inference_mode(False), torch.no_grad(), eval_mode(model), uncached_autocast(device):
        return explain_features(model, model.backbone(images.to(device)), classes)


def explain_features(model: FineGrainedModel, features: Tensor, classes: Tensor | None = None) -> Explanation:
    """As `explain`, from the feature map: other classes of pictures that were explained already.

    Args:
        model: a model of this package.
        features: A (B, C, H, W), as in `Explanation.features`.
        classes: as for `explain`.

    Raises:
        ValueError: if the classes do not fit.
    """
    with torch.inference_mode(False), torch.no_grad(), eval_mode(model):
        if classes is not None:
            classes = fitting_classes(classes, len(features), model.num_classes).to(features.device)
        first, *others = (None,) if classes is None else classes.view(len(features), -1).unbind(1)
        output, weights = model.gradcam(features, first, at="attended")
        betas = [weights, *(model.gradcam(features, column, at="attended")[1] for column in others)]
        maps = [gradcam_map(output.attended, beta) for beta in betas]
        shown = output.logits.argmax(dim=1) if classes is None else classes
        maps, weights = stacked_like(shown, maps), stacked_like(shown, betas)
    return Explanation(output.logits, shown, maps, weights, output.features, output.attention)


def attention_maps(
    model: FineGrainedModel, images: Tensor, classes: Tensor | None = None
) -> dict[str, Tensor]:
    """Every kind of heat map of a batch of images, in one pass through the backbone.

    The same as `map_kinds(model, explain(model, images, classes))`, and the arguments of `explain`.
    """
    return map_kinds(model, explain(model, images, classes))


def available_maps(model: FineGrainedModel) -> tuple[str, ...]:
    """Which of `MAPS` a model has: those of attention that reaches the classifier, and always `gradcam`."""
    attention = getattr(model, "attention", None)
    if not isinstance(attention, ChannelSpatialAttention):
        return ("gradcam",)
    at_work = {
        "gradcam-features": attention.channel or attention.spatial,
        "spatial": attention.spatial,
        "channel": attention.channel,
    }
    return tuple(kind for kind in MAPS if at_work.get(kind, True))


def map_kinds(
    model: FineGrainedModel, explanation: Explanation, kinds: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """The heat maps of an explanation by kind, without another pass through the backbone.

    * `gradcam`: ReLU(Σ_c β_c D_c), β_c = 1/(HW) Σ_ij ∂y_k/∂D_cij, at the attended map D, where the authors'
      scripts take it; D is A where there is no attention.
    * `gradcam-features`: ReLU(Σ_c β_c A_c), β_c = 1/(HW) Σ_ij ∂y_k/∂A_cij (Eq. 4), at the feature map A
      before the attention. The gradient goes through S and T too, and the ratio of Eq. (3) couples all
      positions.
    * `spatial`: T of Eq. (3), the same for every class.
    * `channel`: ReLU(Σ_c S_c A_c), the Grad-CAM formula with S in the place of β, the same for every
      class. For A ≥ 0 it is the numerator of Eq. (3), so T by the ratio is this map normalised.

    Args:
        model: the model that was explained.
        explanation: what `explain` returned.
        kinds: which of them; None takes all that the model has, see `available_maps`.

    Returns:
        Kind to maps, not normalised, each of the shape of `explanation.maps`; in the order of `kinds`.

    Raises:
        ValueError: for a kind that does not exist or that the model does not have.
    """
    chosen = available_maps(model) if kinds is None else checked_kinds(model, kinds)
    return {kind: _map(model, explanation, kind) for kind in chosen}


def checked_kinds(model: FineGrainedModel, kinds: Sequence[str]) -> Sequence[str]:
    """The kinds of map, once it is known that the model has them.

    Raises:
        ValueError: for a kind that does not exist or that the model does not have.
    """
    available = available_maps(model)
    for kind in kinds:
        if kind not in available:
            what = f"this {model.config.method} model has only" if kind in MAPS else "expected"
            raise ValueError(f"map {kind!r}: {what} {', '.join(available)}")
    return kinds


def weights_at_features(model: FineGrainedModel, explanation: Explanation) -> Tensor:
    """β (B, C) or (B, M, C) of Eq. (4) at A, through the attention: what the guidance holds S against.

    Args:
        model: the model that was explained.
        explanation: what `explain` returned.
    """
    columns = explanation.classes.view(len(explanation.logits), -1).unbind(1)
    with eval_mode(model):
        betas = [model.gradcam(explanation.features, column)[1] for column in columns]
    return stacked_like(explanation.classes, betas)


def _map(model: FineGrainedModel, explanation: Explanation, kind: str) -> Tensor:
    if kind == "gradcam":
        return explanation.maps
    if kind == "gradcam-features":
        features = explanation.features
        betas = weights_at_features(model, explanation).view(len(features), -1, features.shape[1]).unbind(1)
        return stacked_like(explanation.classes, [gradcam_map(features, beta) for beta in betas])
    assert explanation.attention is not None
    if kind == "spatial":
        single = explanation.attention.spatial.squeeze(1)
    else:
        single = gradcam_map(explanation.features, explanation.attention.channel)
    several = explanation.maps.ndim == 4
    return single.unsqueeze(1).expand_as(explanation.maps) if several else single


def fitting_classes(classes: Tensor, count: int, num_classes: int) -> Tensor:
    """A copy of the classes to explain as int64, once they are known to fit.

    Args:
        classes: k for each image (B,), or M of them (B, M); may come from `torch.inference_mode`.
        count: B, the images.
        num_classes: K.

    Raises:
        ValueError: if they are not integers from 0 to K - 1, as many for each image.
    """
    if classes.ndim == 2 and len(classes) == count and classes.shape[1]:
        return checked_classes(classes.reshape(-1), classes.numel(), num_classes).view(classes.shape).clone()
    return checked_classes(classes, count, num_classes).clone()


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
