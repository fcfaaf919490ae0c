"""Grad-CAM: the channel weights β of Eq. (4), by autograd for any head and in closed form for ours.

Both read the gradient of the logit y_k at the feature map A only: nothing behind A is differentiated,
no parameter's `.grad` is written, and no module's train or eval flag is touched.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Pool = Literal["average", "max"]

EMPTY_MASS = 1e-12
"""A map whose values add up to no more than this has T = 1/(HW) and passes no gradient on."""
LAYER_NORM_EPS = 1e-5
"""What `torch.nn.functional.layer_norm` adds to the variance."""


def gradcam_weights(logits: Tensor, features: Tensor, classes: Tensor | None = None) -> Tensor:
    """Eq. (4): β_c = 1/(HW) Σ_ij ∂y_k/∂A_cij, by one backward pass through the head alone.

    The graph of `logits` is kept, so a loss computed from the same forward pass can still be
    differentiated. In train mode BatchNorm in the head couples the images of a batch, and β_b
    then holds the (small) influence of image b on the other images' logits too.

    Args:
        logits: y (B, K), before softmax, computed from `features` with gradients enabled.
        features: A (B, C, H, W), part of the graph of `logits`.
        classes: k for each image (B,), integer; None takes the predicted class, argmax y.

    Returns:
        β (B, C), detached, in float32 or wider.

    Raises:
        ValueError: if the shapes do not fit, a class is out of range, or `logits` was not computed
            from `features` with gradients enabled.
    """
    _check_classes(logits, features, classes)
    if not logits.requires_grad or not features.requires_grad:
        raise ValueError(
            "gradcam_weights: the logits carry no gradient to the features; run the head under "
            "torch.enable_grad() on features that require grad (features.detach().requires_grad_())"
        )
    chosen = select_logits(logits, classes)
    (gradient,) = torch.autograd.grad(chosen.sum(), features, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError("gradcam_weights: the logits do not depend on these features")
    return gradient.detach().mean(dim=(2, 3), dtype=torch.promote_types(gradient.dtype, torch.float32))


def gradcam_map(features: Tensor, weights: Tensor) -> Tensor:
    """L_map = ReLU(Σ_c β_c A_c), the Grad-CAM heat map, not normalised.

    Args:
        features: A (B, C, H, W).
        weights: β (B, C).

    Returns:
        L_map (B, H, W), in the precision of β; all zero where no channel speaks for the class.
    """
    return torch.einsum("bchw,bc->bhw", features.to(weights.dtype), weights).relu()


def select_logits(logits: Tensor, classes: Tensor | None) -> Tensor:
    """The logit y_k of each image (B,): of the predicted class, or of the given `classes` (B,)."""
    if classes is None:
        return logits.amax(dim=1)
    return logits.gather(1, classes.to(logits.device).unsqueeze(1)).squeeze(1)


def closed_form_weights(
    features: Tensor,
    pooled_gradient: Tensor,
    *,
    pool: Pool,
    channel: Tensor | None = None,
    spatial: Tensor | None = None,
    spatial_norm: str = "ratio",
    reduce: Tensor | None = None,
    expand: Tensor | None = None,
    descriptor_norm: bool = False,
) -> Tensor:
    """Eq. (4) without autograd, for heads y = f(pool(D)) with the attention of Eq. (1)-(3).

    The chain rule written out, from pool(D) back to A. It holds where f treats each image alone,
    so a classifier with BatchNorm must be in eval mode; in train mode use `gradcam_weights`.
    Made of plain tensor operations: it runs under `no_grad`, compiles and exports.

    Args:
        features: A (B, C, H, W).
        pooled_gradient: w (B, C), the gradient of y_k at pool(D).
        pool: how D was pooled over H×W.
        channel: S (B, C) if it weighs the features, else None.
        spatial: T (B, 1, H, W) if it weighs the features, else None.
        spatial_norm: how T was normalised, as in `ggam.spatial_weights`.
        reduce: W₁ (C/r, C), needed with `channel`.
        expand: W₂ (C, C/r), needed with `channel`.
        descriptor_norm: whether GAP(A) was standardised before W₁.

    Returns:
        β (B, C), equal to what `gradcam_weights` gives.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features.to(pooled_gradient.dtype)
        weighted = features if channel is None else channel[:, :, None, None] * features
        attended = weighted if spatial is None else features * spatial
        d_attended = _unpool(attended, pooled_gradient, pool)  # ∂y/∂D
        if spatial is None:
            d_features, d_weighted = torch.zeros_like(features), d_attended.expand_as(features)
        else:
            d_features = d_attended * spatial
            d_spatial = (d_attended * features).sum(dim=1, keepdim=True)
            d_weighted = _spatial_backward(weighted, spatial, d_spatial, spatial_norm)
        if channel is None:
            return (d_features + d_weighted).mean(dim=(2, 3))
        if reduce is None or expand is None:
            raise ValueError("closed_form_weights: channel attention needs its reduce and expand weights")
        direct = d_features + channel[:, :, None, None] * d_weighted
        d_channel = (d_weighted * features).sum(dim=(2, 3))
        d_descriptor = _channel_backward(features, channel, d_channel, reduce, expand, descriptor_norm)
        return direct.mean(dim=(2, 3)) + d_descriptor / (features.shape[2] * features.shape[3])


def _unpool(attended: Tensor, pooled_gradient: Tensor, pool: Pool) -> Tensor:
    """∂y/∂D from ∂y/∂pool(D): (B, C, 1, 1) for the average, one-hot over H×W for the maximum."""
    gradient = pooled_gradient[:, :, None, None]
    if pool == "average":
        return gradient / (attended.shape[2] * attended.shape[3])
    peak = attended.flatten(2).argmax(dim=2)
    one_hot = F.one_hot(peak, attended.shape[2] * attended.shape[3]).view_as(attended)
    return gradient * one_hot


def _spatial_backward(weighted: Tensor, spatial: Tensor, d_spatial: Tensor, norm: str) -> Tensor:
    """∂y/∂B from ∂y/∂T, through Eq. (3); it is the same for every channel but for the clamp."""
    if norm == "sigmoid":
        return (d_spatial * spatial * (1 - spatial)).expand_as(weighted)
    centred = d_spatial - (d_spatial * spatial).sum(dim=(2, 3), keepdim=True)
    if norm == "softmax":
        return (centred * spatial).expand_as(weighted)
    mass = weighted.clamp(min=0).sum(dim=(1, 2, 3), keepdim=True)
    empty = mass <= EMPTY_MASS
    return (centred / mass.masked_fill(empty, torch.inf)) * (weighted >= 0)


def _channel_backward(
    features: Tensor,
    channel: Tensor,
    d_channel: Tensor,
    reduce: Tensor,
    expand: Tensor,
    descriptor_norm: bool,
) -> Tensor:
    """∂y/∂GAP(A) from ∂y/∂S, through Eq. (1): softmax, W₂, ReLU, W₁ and the LayerNorm."""
    d_scores = channel * (d_channel - (channel * d_channel).sum(dim=1, keepdim=True))
    descriptor = features.mean(dim=(2, 3))
    if descriptor_norm:
        inverse_std = torch.rsqrt(descriptor.var(dim=1, correction=0, keepdim=True) + LAYER_NORM_EPS)
        descriptor = (descriptor - descriptor.mean(dim=1, keepdim=True)) * inverse_std
    active = F.linear(descriptor, reduce) > 0
    d_descriptor = ((d_scores @ expand) * active) @ reduce
    if descriptor_norm:
        along = (d_descriptor * descriptor).mean(dim=1, keepdim=True)
        d_descriptor = d_descriptor - d_descriptor.mean(dim=1, keepdim=True) - descriptor * along
        d_descriptor = d_descriptor * inverse_std
    return d_descriptor


def _check_classes(logits: Tensor, features: Tensor, classes: Tensor | None) -> None:
    if logits.ndim != 2 or features.ndim != 4 or len(logits) != len(features):
        raise ValueError(
            f"logits {tuple(logits.shape)} and features {tuple(features.shape)}: "
            "expected (B, K) and (B, C, H, W)"
        )
    if classes is None:
        return
    if classes.shape != logits.shape[:1] or classes.is_floating_point():
        raise ValueError(
            f"classes {tuple(classes.shape)} of {classes.dtype}: expected {len(logits)} integers, one per image"
        )
    if len(classes) and not (0 <= int(classes.min()) and int(classes.max()) < logits.shape[1]):
        raise ValueError(
            f"classes from {int(classes.min())} to {int(classes.max())}: "
            f"expected 0 to {logits.shape[1] - 1} for {logits.shape[1]} logits"
        )
