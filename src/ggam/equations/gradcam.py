"""Grad-CAM: the channel weights β of Eq. (4), by autograd for any head and in closed form for ours.

Both read the gradient of the logit y_k at the feature map A only: nothing behind A is differentiated,
no parameter's `.grad` is written, and no module's train or eval flag is touched.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ggam.equations.precision import EMPTY_MASS, autocast_off, widen

Pool = Literal["average", "max"]

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
    if logits.ndim != 2 or features.ndim != 4 or len(logits) != len(features):
        raise ValueError(
            f"logits {tuple(logits.shape)} and features {tuple(features.shape)}: "
            "expected (B, K) and (B, C, H, W)"
        )
    if not logits.requires_grad or not features.requires_grad:
        raise ValueError(
            "gradcam_weights: the logits carry no gradient to the features; run the head under "
            "torch.enable_grad() on features that require grad (features.detach().requires_grad_())"
        )
    if classes is None:
        classes = logits.argmax(dim=1)
    else:
        classes = checked_classes(classes, *logits.shape).to(logits.device)
    chosen = logits.gather(1, classes.unsqueeze(1))
    (gradient,) = torch.autograd.grad(chosen.sum(), features, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError("gradcam_weights: the logits do not depend on these features")
    return widen(gradient).mean(dim=(2, 3))


def gradcam_map(features: Tensor, weights: Tensor) -> Tensor:
    """L_map = ReLU(Σ_c β_c A_c), the Grad-CAM heat map, not normalised.

    Args:
        features: A (B, C, H, W).
        weights: β (B, C).

    Returns:
        L_map (B, H, W), in the precision of β; all zero where no channel speaks for the class.
    """
    with autocast_off(features):
        return torch.einsum("bchw,bc->bhw", features.to(weights.dtype), weights).relu()


def checked_classes(classes: Tensor, count: int, num_classes: int, *, lowest: int = 0) -> Tensor:
    """The classes to explain as int64, once they are known to fit.

    Args:
        classes: k for each image.
        count: B, the images.
        num_classes: K.
        lowest: the smallest number that is allowed.

    Raises:
        ValueError: if they are not B integers from `lowest` to K - 1.
    """
    if classes.shape != (count,) or classes.dtype not in _INTEGERS:
        raise ValueError(
            f"classes of shape {tuple(classes.shape)} and type {classes.dtype}: "
            f"expected {count} integers, one per image"
        )
    if count and (int(classes.min()) < lowest or int(classes.max()) >= num_classes):
        raise ValueError(
            f"classes from {int(classes.min())} to {int(classes.max())}: "
            f"expected {lowest} to {num_classes - 1}"
        )
    return classes.long()


def closed_form_weights(
    features: Tensor,
    pooled_gradient: Tensor,
    *,
    pool: Pool,
    channel: Tensor | None = None,
    spatial: Tensor | None = None,
    spatial_norm: Literal["ratio", "softmax", "sigmoid"] = "ratio",
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

    Raises:
        ValueError: if `channel` comes without `reduce` and `expand`.
    """
    with autocast_off(features):
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
    flat = attended.flatten(2)
    one_hot = torch.zeros_like(flat).scatter(2, flat.argmax(dim=2, keepdim=True), 1.0)
    return gradient * one_hot.view_as(attended)


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
    if not descriptor_norm:
        return ((d_scores @ expand) * (F.linear(descriptor, reduce) > 0)) @ reduce
    inverse_std = torch.rsqrt(descriptor.var(dim=1, correction=0, keepdim=True) + LAYER_NORM_EPS)
    normed = (descriptor - descriptor.mean(dim=1, keepdim=True)) * inverse_std
    d_normed = ((d_scores @ expand) * (F.linear(normed, reduce) > 0)) @ reduce
    along = (d_normed * normed).mean(dim=1, keepdim=True)
    return (d_normed - d_normed.mean(dim=1, keepdim=True) - normed * along) * inverse_std


_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
