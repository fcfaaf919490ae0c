"""Channel-spatial attention: Eq. (1)-(3) of the paper, one function each, and the module.

Letters, as in the paper: A (B, C, H, W) is the last feature map of the backbone, S (B, C) the
channel attention, B = S ⊙ A the weighted map, T (B, 1, H, W) the spatial attention and
D (B, C, H, W) the attended map. Everything is computed in float32 under autocast.
"""

from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ggam.equations.precision import EMPTY_MASS, autocast_off, widen

SpatialNorm = Literal["ratio", "softmax", "sigmoid"]


class Attention(NamedTuple):
    """What the attention module returns."""

    channel: Tensor
    """S (B, C), sums to 1 over C."""
    spatial: Tensor
    """T (B, 1, H, W), sums to 1 over H×W (not with the sigmoid norm)."""
    attended: Tensor
    """D (B, C, H, W), what the classifier pools."""


def channel_weights(
    features: Tensor, reduce: Tensor, expand: Tensor, *, descriptor_norm: bool = False
) -> Tensor:
    """Eq. (1): S = softmax(W₂ · ReLU(W₁ · GAP(A))).

    Args:
        features: A (B, C, H, W).
        reduce: W₁ (C/r, C), the first fully connected layer.
        expand: W₂ (C, C/r), the second one.
        descriptor_norm: standardise GAP(A) over the channels of each image first, a LayerNorm
            without parameters. Not in the paper: it keeps S from saturating on backbones
            without BatchNorm, whose activations are tens of times larger.

    Returns:
        S (B, C), positive, sums to 1 over C.
    """
    with autocast_off(features):
        descriptor = widen(features).mean(dim=(2, 3))
        if descriptor_norm:
            descriptor = F.layer_norm(descriptor, descriptor.shape[1:])
        return F.linear(F.relu(F.linear(descriptor, reduce)), expand).softmax(dim=1)


def spatial_weights(weighted: Tensor, *, norm: SpatialNorm = "ratio") -> Tensor:
    """Eq. (3): T_ij = Σ_c B_cij / Σ_ij Σ_c B_cij.

    Args:
        weighted: B = S ⊙ A (B, C, H, W).
        norm: `ratio` is the equation. It needs B ≥ 0, so signed features (ConvNeXt, Swin, ViT)
            are clamped at 0 first, and an all-zero map gives T = 1/(HW) with a zero gradient.
            `softmax` over H×W is what the paper's text says; `sigmoid` is what the authors'
            scripts do, and does not sum to 1.

    Returns:
        T (B, 1, H, W).

    Raises:
        ValueError: for an unknown norm.
    """
    _require_norm(norm)
    weighted = widen(weighted)
    if norm == "softmax":
        saliency = weighted.sum(dim=1, keepdim=True)
        return saliency.flatten(1).softmax(dim=1).view_as(saliency)
    if norm == "sigmoid":
        return weighted.sum(dim=1, keepdim=True).sigmoid()
    saliency = weighted.clamp(min=0).sum(dim=1, keepdim=True)
    mass = saliency.sum(dim=(2, 3), keepdim=True)
    empty = mass <= EMPTY_MASS
    uniform = 1 / (saliency.shape[2] * saliency.shape[3])
    return torch.where(empty, uniform, saliency / mass.masked_fill(empty, 1))


def apply_spatial(features: Tensor, spatial: Tensor) -> Tensor:
    """Eq. (2): D = A ⊙ T, the features (not the channel-weighted ones) rescaled by T.

    Args:
        features: A (B, C, H, W).
        spatial: T (B, 1, H, W).

    Returns:
        D (B, C, H, W).
    """
    return features * spatial


class ChannelSpatialAttention(nn.Module):
    """The paper's attention module: A → S, T, D (Eq. 1-3).

    S and T are always computed; the switches say which of them reach D, as the rows of Table 3
    need it: without `channel`, T is read from A itself (B = A); without `spatial`, D = B; without
    both, D = A.

    Args:
        channels: C, the channels of A.
        reduction: r, how many times the hidden layer of Eq. (1) is narrower than C.
        channel: let S weigh the features.
        spatial: let T weigh the features.
        spatial_norm: how T is normalised, see `spatial_weights`.
        descriptor_norm: standardise GAP(A) before W₁, see `channel_weights`.

    Raises:
        ValueError: for fewer than one channel, a reduction below one or an unknown norm.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        channel: bool = True,
        spatial: bool = True,
        spatial_norm: SpatialNorm = "ratio",
        descriptor_norm: bool = False,
    ) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(f"channels={channels}, reduction={reduction}: both must be at least 1")
        _require_norm(spatial_norm)
        hidden = max(1, channels // reduction)
        self.reduce = nn.Linear(channels, hidden, bias=False)
        self.expand = nn.Linear(hidden, channels, bias=False)
        self.channel = channel
        self.spatial = spatial
        self.spatial_norm: SpatialNorm = spatial_norm
        self.descriptor_norm = descriptor_norm

    def forward(self, features: Tensor) -> Attention:
        """A (B, C, H, W) → S (B, C), T (B, 1, H, W), D (B, C, H, W).

        Raises:
            ValueError: if A is not (B, C, H, W) with the C of this module.
        """
        channels = self.reduce.in_features
        if features.ndim != 4 or features.shape[1] != channels:
            raise ValueError(
                f"features of shape {tuple(features.shape)}: expected (B, {channels}, H, W); "
                "channels-last features need .permute(0, 3, 1, 2)"
            )
        features = widen(features)
        channel = channel_weights(
            features, self.reduce.weight, self.expand.weight, descriptor_norm=self.descriptor_norm
        )
        weighted = channel[:, :, None, None] * features if self.channel else features
        spatial = spatial_weights(weighted, norm=self.spatial_norm)
        attended = apply_spatial(features, spatial) if self.spatial else weighted
        return Attention(channel, spatial, attended)

    def extra_repr(self) -> str:
        """The switches, for `print(model)`."""
        return (
            f"channel={self.channel}, spatial={self.spatial}, "
            f"spatial_norm={self.spatial_norm}, descriptor_norm={self.descriptor_norm}"
        )


def _require_norm(norm: str) -> None:
    if norm not in get_args(SpatialNorm):
        raise ValueError(f"spatial norm {norm!r}: expected one of {', '.join(get_args(SpatialNorm))}")
