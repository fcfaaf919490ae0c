"""GGAM: channel-spatial attention, supervised by Grad-CAM (the paper's method, Fig. 1 and 2)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, cast, get_args

from torch import Tensor

from ggam.backbones.build import LAST, Backbone, Features
from ggam.equations.attention import ChannelSpatialAttention, SpatialNorm
from ggam.equations.gradcam import Pool, closed_form_weights, gradcam_map, gradcam_weights
from ggam.equations.guidance import (
    Divergence,
    GGAMLoss,
    Target,
    guidance_target,
    normalized_entropy,
    spatial_guidance,
)
from ggam.methods.base import (
    GRADCAM_FEATURES,
    FineGrainedModel,
    ModelConfig,
    Output,
    Place,
    accuracy,
)
from ggam.methods.classifier import Classifier, logit_gradient

Preset = Literal["default", "paper", "released"]

PRESETS: dict[Preset, dict[str, Any]] = {
    "default": {
        "descriptor_norm": True,
        "spatial_norm": "ratio",
        "pool": "average",
        "gradient_at": "features",
        "classes": "predicted",
        "target": "standardized",
        "divergence": "symmetric",
        "guidance_weight": 1.0,
    },
    "paper": {
        "descriptor_norm": False,
        "spatial_norm": "ratio",
        "pool": "average",
        "gradient_at": "features",
        "classes": "predicted",
        "target": "sigmoid",
        "divergence": "symmetric",
        "guidance_weight": 1.0,
    },
    "released": {
        "descriptor_norm": False,
        "spatial_norm": "sigmoid",
        "pool": "max",
        "gradient_at": "attended",
        "classes": "predicted",
        "target": "softmax",
        "divergence": "one-way",
        "guidance_weight": 1.0,
    },
}
"""The readings of the paper: ours, the paper's own, and the authors' scripts' (docs/equations.md)."""


@dataclass(frozen=True, kw_only=True)
class GGAMOptions:
    """The options of the method; None takes the preset's value.

    Raises:
        ValueError: for a value that is not one of a field's choices, or out of range.
    """

    preset: Preset = "default"
    """Which reading of the paper fills the options left unset: ours, the paper's or the scripts'."""
    channel: bool = True
    """Let the channel attention S weigh the features (Table 3, column 2)."""
    spatial: bool = True
    """Let the spatial attention T weigh the features (Table 3, column 1)."""
    guidance: bool = True
    """Supervise S with Grad-CAM (Table 3, column 3)."""
    guidance_weight: float | None = None
    """λ of Eq. (6), the weight of the guidance (1 in every preset)."""
    warmup: int = 0
    """Epochs before the guidance starts."""
    target: Target | None = None
    """How the Grad-CAM weights become the target of S."""
    divergence: Divergence | None = None
    """Eq. (5) averaged over the batch, or the scripts' KL(S‖target) summed over it."""
    classes: Literal["predicted", "label"] | None = None
    """Whose logit Grad-CAM differentiates in training: the predicted class's or the label's."""
    guided: Literal["channel", "both"] = "channel"
    """What Grad-CAM supervises: S, as in the paper, or both S and T (its map being T's target)."""
    guidance_reaches: Literal["backbone", "attention"] = "backbone"
    """How deep the guidance's gradient goes: through the features into the backbone, or no deeper than S."""
    gradient_at: Place | None = None
    """Where Grad-CAM's gradient is taken for the guidance: at A, or at the attended map D."""
    spatial_norm: SpatialNorm | None = None
    """How T is normalised: Eq. (3), a softmax over space, or a sigmoid."""
    descriptor_norm: bool | None = None
    """Standardise the pooled features before the attention's first layer."""
    pool: Pool | None = None
    """How D is pooled for the classifier."""
    reduction: int = 16
    """r, how many times narrower the attention's hidden layer is."""

    def __post_init__(self) -> None:
        """Fill what is unset from the preset, and refuse what makes no sense."""
        _require_choice("preset", self.preset, get_args(Preset))
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name, choices in _CHOICES.items():
            _require_choice(name, getattr(self, name), choices)
        weight = cast(float, self.guidance_weight)
        if self.warmup < 0 or self.reduction < 1 or not 0 <= weight < math.inf:
            raise ValueError(
                f"warmup={self.warmup}, reduction={self.reduction}, guidance_weight={self.guidance_weight}: "
                "expected warmup ≥ 0, reduction ≥ 1 and a finite guidance_weight ≥ 0"
            )


class GGAM(FineGrainedModel):
    """Channel-spatial attention supervised by Grad-CAM: A → S, T → D → y, S pulled towards β (Eq. 1-6)."""

    Options = GGAMOptions
    options: GGAMOptions
    map_titles: ClassVar[Mapping[str, str]] = {
        "gradcam-features": GRADCAM_FEATURES,
        "spatial": "Attention T",
        "channel": "Channel attention S",
    }
    source = (
        "«Grad-CAM guided channel-spatial attention module for fine-grained visual classification», "
        "arXiv 2101.09666, 2021"
    )

    def __init__(self, backbone: Backbone, config: ModelConfig, options: GGAMOptions) -> None:
        super().__init__(backbone, config, options)
        self.attention = ChannelSpatialAttention(
            backbone.channels,
            reduction=options.reduction,
            channel=options.channel,
            spatial=options.spatial,
            spatial_norm=cast(SpatialNorm, options.spatial_norm),
            descriptor_norm=bool(options.descriptor_norm),
        )
        self.classifier = Classifier(backbone.channels, self.num_classes)
        self.loss = GGAMLoss(
            cast(float, options.guidance_weight),
            target=cast(Target, options.target),
            divergence=cast(Divergence, options.divergence),
        )

    @property
    def map_kinds(self) -> tuple[str, ...]:
        """The maps of the attention that reaches the classifier."""
        channel, spatial = self.options.channel, self.options.spatial
        there = {"gradcam-features": channel or spatial, "spatial": spatial, "channel": channel}
        return tuple(kind for kind, reaches in there.items() if reaches)

    def head(self, features: Features, images: Tensor) -> Output:
        """A (B, C, H, W) → logits and attention: y = classifier(pool(D))."""
        last = features[LAST]
        channel, spatial, attended = self.attention(last)
        logits = self.classifier(_pooled(attended, self.options.pool))
        return Output(logits, last, attended, {"channel": channel, "spatial": spatial})

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Eq. (6) for one batch, L_CE and λ L_GGAM: images (B, 3, h, w), labels (B,).

        In train mode BatchNorm in the classifier lets the images of a batch influence one another's
        β a little; the paper does not say otherwise, and it is left so.
        """
        features = self.features(images)
        if not features[LAST].requires_grad:  # a backbone at rest: Grad-CAM still differentiates at A
            features = features | {LAST: features[LAST].detach().requires_grad_()}
        output = self.answer(features, images)
        at = output.features if self.options.gradient_at == "features" else output.attended
        beta = gradcam_weights(output.logits, at, labels if self.options.classes == "label" else None)
        channel, spatial = output.maps["channel"], output.maps["spatial"]
        if self.options.guidance_reaches == "attention":
            channel, spatial, _ = self.attention(output.features.detach())
        terms = self.loss(output.logits, labels, channel, beta)
        divergence = terms.guidance
        if self.options.guided == "both":
            heat = gradcam_map(output.features.detach(), beta)
            divergence = divergence + spatial_guidance(spatial, heat).mean()
        # β and the divergence are measured in any case, so that rows of Table 3 can be compared.
        self.diagnostics = {
            "accuracy": accuracy(output.logits, labels),
            "divergence": divergence.detach(),
            "channel_entropy": normalized_entropy(output.maps["channel"].detach()).mean(),
            "target_entropy": normalized_entropy(guidance_target(beta, self.loss.target)).mean(),
        }
        if not self.options.guidance or self.epoch < self.options.warmup:
            return {"classification": terms.classification}
        return {"classification": terms.classification, "guidance": self.loss.weight * divergence}

    def closed_form(self, output: Output, classes: Tensor, at: Place) -> Tensor | None:
        """β at D, or at A through both attentions."""
        pool = cast(Pool, self.options.pool)
        gradient = logit_gradient(self.classifier, _pooled(output.attended, pool), classes)
        if gradient is None:
            return None
        if at == "attended":
            return closed_form_weights(output.attended, gradient, pool=pool)
        return closed_form_weights(
            output.features,
            gradient,
            pool=pool,
            channel=output.maps["channel"] if self.options.channel else None,
            spatial=output.maps["spatial"] if self.options.spatial else None,
            spatial_norm=self.attention.spatial_norm,
            reduce=self.attention.reduce.weight,
            expand=self.attention.expand.weight,
            descriptor_norm=self.attention.descriptor_norm,
        )


def _pooled(attended: Tensor, pool: Pool | None) -> Tensor:
    """D (B, C, H, W) → (B, C)."""
    return attended.flatten(2).max(dim=2).values if pool == "max" else attended.mean(dim=(2, 3))


def _choices() -> dict[str, tuple[Any, ...]]:
    """The allowed values of each option that has a closed list of them."""
    choices = {}
    for option in fields(GGAMOptions):
        literal = next((part for part in get_args(option.type) if get_args(part)), None)
        if literal is not None:
            choices[option.name] = get_args(literal)
    return choices


def _require_choice(name: str, value: object, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(str, choices))}")


_CHOICES = _choices()
