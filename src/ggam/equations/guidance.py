"""The GGAM loss: Eq. (5) and (6), the guidance targets, and their diagnostics.

Eq. (5) compares the channel attention S with β̃ = sigmoid(β). As printed it diverges, because β̃ does
not sum to one, and once normalised it is almost uniform, because β is tiny (docs/equations.md has the
measurements). `guidance_target` therefore offers several readings of β̃.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ggam.equations.precision import widen

Target = Literal["standardized", "sigmoid", "sigmoid-unnormalized", "softmax", "uniform"]
Divergence = Literal["symmetric", "one-way"]


class LossTerms(NamedTuple):
    """The terms of Eq. (6), scalars."""

    total: Tensor
    """L = L_CE + λ L_GGAM, what is minimised."""
    classification: Tensor
    """L_CE, the mean cross-entropy."""
    guidance: Tensor
    """L_GGAM, not multiplied by λ."""


def guidance_target(beta: Tensor, target: Target = "standardized") -> Tensor:
    """β̃, the distribution over channels that S is pulled towards (Eq. 5).

    Args:
        beta: β (B, C), the Grad-CAM channel weights.
        target: `standardized`, our default: sigmoid(z)/Σ sigmoid(z) with z = (β - mean β)/std β per
            image. `sigmoid`: sigmoid(β)/Σ sigmoid(β). `sigmoid-unnormalized`: sigmoid(β), Eq. (5) to
            the letter. `softmax`: softmax(β), the authors' scripts. `uniform`: 1/C, a control that
            carries nothing of Grad-CAM.

    Returns:
        β̃ (B, C), detached; sums to 1 over C except for `sigmoid-unnormalized`.

    Raises:
        ValueError: for an unknown target.
    """
    _require_target(target)
    return _TARGETS[target](widen(beta.detach()))


def symmetric_kl(p: Tensor, q: Tensor) -> Tensor:
    """Eq. (5): ½ (KL(p‖q) + KL(q‖p)) = ½ Σ_c (p_c - q_c)(log p_c - log q_c).

    Zeros are finite: a probability below the smallest normal number counts as that number.

    Args:
        p: (B, C), non-negative.
        q: (B, C), non-negative.

    Returns:
        (B,), in nats; 0 where p = q.
    """
    p, q = widen(p), widen(q)
    return ((p - q) * (_log(p) - _log(q))).sum(dim=1) / 2


def one_way_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p‖q) = Σ_c p_c (log p_c - log q_c), what the authors' scripts use instead of Eq. (5).

    Args:
        p: (B, C), non-negative.
        q: (B, C), non-negative.

    Returns:
        (B,), in nats.
    """
    p, q = widen(p), widen(q)
    return (p * (_log(p) - _log(q))).sum(dim=1)


def normalized_entropy(weights: Tensor) -> Tensor:
    """H(p)/log C of each row: 1 for a uniform distribution, 0 for a one-hot one.

    Logged in training for S and β̃: a target of entropy 1.000 says nothing about the image.

    Args:
        weights: (B, C), non-negative; divided by its sum to give p.

    Returns:
        (B,), between 0 and 1; 1 for a single channel.
    """
    channels = weights.shape[1]
    if channels == 1:
        return torch.ones_like(weights[:, 0])
    p = _normalized(widen(weights))
    return -(p * _log(p)).sum(dim=1) / math.log(channels)


def spatial_guidance(spatial: Tensor, heat: Tensor) -> Tensor:
    """The divergence of T from the Grad-CAM map: Eq. (5) over space instead of channels.

    Not in the paper, which guides S alone; an ablation. The target is the map as a distribution, mixed
    half and half with the uniform one: a map has zeros, where the divergence would be infinite. An
    empty map asks for a uniform T.

    Args:
        spatial: T (B, 1, H, W), or (B, H, W), not negative; it need not sum to one.
        heat: L_map (B, H, W), not negative; a target, so no gradient flows through it.

    Returns:
        (B,), symmetric KL in nats.
    """
    heat = heat.detach().flatten(1)
    uniform = torch.full_like(heat, 1 / heat.shape[1])
    total = heat.sum(dim=1, keepdim=True)
    share = torch.where(total > 0, heat / total.masked_fill(total == 0, 1), uniform)
    spatial = spatial.flatten(1)
    return symmetric_kl(spatial / spatial.sum(dim=1, keepdim=True), (share + uniform) / 2)


class GGAMLoss(nn.Module):
    """Eq. (6): L = L_CE + λ L_GGAM, with L_GGAM of Eq. (5).

    Args:
        weight: λ.
        target: how β becomes β̃, see `guidance_target`.
        divergence: `symmetric` is Eq. (5), averaged over the batch; `one-way` is the authors'
            scripts' KL(S‖β̃), summed over the batch, so that its weight grows with the batch; on
            several devices, with the part of it that one device has.

    Raises:
        ValueError: for a weight that is negative or not finite, an unknown target or an unknown divergence.
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        target: Target = "standardized",
        divergence: Divergence = "symmetric",
    ) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight={weight}: λ must be a number from 0 up")
        _require_target(target)
        if divergence not in get_args(Divergence):
            raise ValueError(f"divergence={divergence!r}: expected symmetric or one-way")
        self.weight = weight
        self.target: Target = target
        self.divergence: Divergence = divergence

    def forward(self, logits: Tensor, targets: Tensor, channel: Tensor, beta: Tensor) -> LossTerms:
        """The loss of one batch.

        Args:
            logits: y (B, K).
            targets: labels (B,), integer.
            channel: S (B, C); the guidance is differentiated through it.
            beta: β (B, C); a target, so no gradient flows through it.

        Returns:
            The three scalars of Eq. (6).
        """
        classification = F.cross_entropy(logits, targets)
        wanted = guidance_target(beta, self.target)
        if self.divergence == "symmetric":
            guidance = symmetric_kl(channel, wanted).mean()
        else:
            guidance = one_way_kl(channel, wanted).sum()
        return LossTerms(classification + self.weight * guidance, classification, guidance)

    def extra_repr(self) -> str:
        """The settings, for `print(loss)`."""
        return f"weight={self.weight}, target={self.target}, divergence={self.divergence}"


def _standardized(beta: Tensor) -> Tensor:
    largest = beta.abs().amax(dim=1, keepdim=True)
    unit = beta / largest.masked_fill(largest == 0, 1)  # squares neither overflow nor vanish
    centred = unit - unit.mean(dim=1, keepdim=True)
    std = centred.square().mean(dim=1, keepdim=True).sqrt()
    # A spread within rounding of β itself is noise, and would be blown up to size one.
    flat = std <= 8 * torch.finfo(beta.dtype).eps
    return _sigmoid_share(centred / std.masked_fill(flat, torch.inf))


def _sigmoid_share(scores: Tensor) -> Tensor:
    """sigmoid(s)/Σ sigmoid(s), finite where every sigmoid underflows."""
    return F.logsigmoid(scores).softmax(dim=1)


def _normalized(weights: Tensor) -> Tensor:
    return weights / weights.sum(dim=1, keepdim=True)


_TARGETS: dict[str, Callable[[Tensor], Tensor]] = {
    "standardized": _standardized,
    "sigmoid": _sigmoid_share,
    "sigmoid-unnormalized": torch.sigmoid,
    "softmax": lambda beta: beta.softmax(dim=1),
    "uniform": lambda beta: torch.full_like(beta, 1 / beta.shape[1]),
}


def _require_target(target: str) -> None:
    if target not in _TARGETS:
        raise ValueError(f"target={target!r}: expected one of {', '.join(_TARGETS)}")


def _log(p: Tensor) -> Tensor:
    return p.clamp(min=torch.finfo(p.dtype).tiny).log()
