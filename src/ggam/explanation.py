"""Explanations: the Grad-CAM map of each image, at the price of a forward pass."""

from typing import NamedTuple

import torch
from torch import Tensor

from ggam.attention import Attention
from ggam.backbones import eval_mode
from ggam.gradcam import checked_classes, gradcam_map
from ggam.methods.base import FineGrainedModel


class Explanation(NamedTuple):
    """What a model sees in a batch of images; all tensors detached, on the model's device."""

    logits: Tensor
    """y (B, K), before softmax."""
    classes: Tensor
    """The explained class k of each image (B,)."""
    maps: Tensor
    """Grad-CAM heat maps L_map (B, H, W), at the size of the feature map, not normalised."""
    weights: Tensor
    """Grad-CAM channel weights β (B, C)."""
    attention: Attention | None
    """S, T and D, for methods that have them."""


def explain(model: FineGrainedModel, images: Tensor, classes: Tensor | None = None) -> Explanation:
    """Classify images and say where the model looked (Eq. 4 and the heat map of it).

    The backbone runs once, without recording gradients; only the head is differentiated. The model
    is evaluated in eval mode whatever mode it is in, and left in the mode it was in. Works under
    `torch.no_grad`, `torch.inference_mode` and autocast.

    Args:
        model: a model of this package.
        images: (B, 3, h, w), normalised as the model expects; moved to the model's device.
        classes: the class to explain for each image (B,); None explains the predicted one.

    Returns:
        Logits, explained classes and maps. A map is all zero where no channel speaks for the class.

    Raises:
        ValueError: if the images are not (B, 3, h, w) or the classes do not fit them.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images of shape {tuple(images.shape)}: expected (B, 3, h, w)")
    device = next(model.parameters()).device
    if classes is not None:
        classes = checked_classes(classes, len(images), model.num_classes).to(device)
    # One pass has no use for autocast's cache of weights in half precision.
    uncached = torch.autocast(
        device.type,
        dtype=torch.get_autocast_dtype(device.type),
        enabled=torch.is_autocast_enabled(device.type),
        cache_enabled=False,
    )
    with torch.inference_mode(False), torch.no_grad(), eval_mode(model), uncached:
        output, weights = model.gradcam(model.backbone(images.to(device)), classes)
        maps = gradcam_map(output.features, weights)
    shown = output.logits.argmax(dim=1) if classes is None else classes
    return Explanation(output.logits, shown, maps, weights, output.attention)
