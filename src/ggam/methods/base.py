"""What every compared system has in common: its output, its loss, its classifier and its contract.

A method is one file with one class, and one line in `METHODS`. The plain kind (`baseline.py`, `ggam.py`)
implements `head`, from the feature map to the output, and, if it is trained by more than cross-entropy,
`training_loss`. One that changes the backbone (`senet.py`, `cbam.py`) does so in its constructor, and
takes what it added out of `pretrained_parameters`. All further modules are made in the constructor too:
more classifiers, copies of the backbone, anything that learns.

How each further system of Table 2 would be written (none of them is here yet):

* DFL (bank of patch detectors): `head` adds a 1×1 convolution on A with global max pooling and two side
  classifiers, and returns the sum of the three logits; `training_loss` adds up their three
  cross-entropies. Its detectors start from features of training pictures, and nothing shows a method
  pictures before the first step: they are an option, a file made beforehand.
* ACNet (tree of attention branches): `head` holds the tree and returns the log of the leaves' mixed
  probabilities as logits; `training_loss` adds the leaves' own cross-entropies.
* MA-CNN (part attention from groups of channels): `head` holds the grouping and the part classifiers,
  `training_loss` adds the terms that pull a part's map together and the parts apart. It alternates
  between grouping and classifying: `training_loss` reads `self.epoch`, and multiplies what rests by 0.
* DCL (destruction and construction): `training_loss` shuffles the patches of `images`, runs both
  batches, and adds the losses of «shuffled or not» and of the patches' places. `head` is plain.
* RA-CNN (recurrent zoom), NTS (navigator, teacher, scrutinizer), TASN (attention-driven sampling):
  further passes on crops. `forward` proposes regions from A, crops or resamples `images`, calls
  `self.backbone` (or a copy) again, and returns the joint logits with the first pass's A. Grad-CAM goes
  through `head`, and so explains the first pass's own logits. `training_loss` adds the ranking or
  distillation terms; RA-CNN's alternation reads `self.epoch`.

In all of them `LossTerms.total` is the sum that is minimised, `classification` the cross-entropy of the
logits that `forward` returns, and `guidance` the rest. Every parameter takes part in every total, by a
factor of 0 if need be: DDP waits for its gradient.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ggam.backbones.build import Backbone
from ggam.data.transforms import ImageTransform
from ggam.equations.attention import Attention
from ggam.equations.gradcam import gradcam_weights
from ggam.equations.guidance import LossTerms
from ggam.equations.precision import autocast_off, widen

Place = Literal["features", "attended"]
"""Where Grad-CAM differentiates: at A, or at D behind the attention."""


class Output(NamedTuple):
    """What a model returns for a batch of images."""

    logits: Tensor
    """y (B, K), before softmax."""
    features: Tensor
    """A (B, C, H, W), the feature map of the backbone."""
    attention: Attention | None
    """S, T and D, for methods that have them."""

    @property
    def attended(self) -> Tensor:
        """D (B, C, H, W), the feature map that is pooled and classified; A where there is no attention."""
        return self.features if self.attention is None else self.attention.features


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to build a model again and feed it, stored beside its weights."""

    method: str
    backbone: str | None
    """The name given to `create_model`; None for a module passed by the caller."""
    stage: int | str | None
    image_size: int
    """Height and width in pixels that the model was built for."""
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: dict[str, Any] = field(default_factory=dict)
    """The method's own options."""
    temperature: float = 1.0
    """What the logits are divided by to make their softmax as sure as the model is right."""

    def transform(self, *, augment: bool = False) -> ImageTransform:
        """What makes an input of a picture: the crop and normalisation that the model was made for."""
        return ImageTransform(self.image_size, self.mean, self.std, augment)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class Classifier(nn.Sequential):
    """pool(D) (B, C) → y (B, K): BatchNorm, Linear(C, 512), BatchNorm, ELU, Linear(512, K).

    The paper says «several fully connected layers»; this is the authors' choice. The first BatchNorm
    matters: D is as small as 1/(HW) of A, and a bare Linear would have to grow as much.
    """

    def __init__(self, channels: int, num_classes: int, hidden: int = 512) -> None:
        super().__init__(
            nn.BatchNorm1d(channels),
            nn.Linear(channels, hidden),
            nn.BatchNorm1d(hidden),
            nn.ELU(),
            nn.Linear(hidden, num_classes),
        )

    def logit_gradient(self, pooled: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The logits, and the gradient of each image's y_k at its pooled vector, without autograd.

        Holds in eval mode, where BatchNorm is a fixed scale and shift.

        Args:
            pooled: pool(D) (B, C).
            classes: k for each image (B,), None for the predicted class.

        Returns:
            y (B, K) and w (B, C).
        """
        norm_in, linear_in, norm_hidden, _, linear_out = self
        assert isinstance(norm_in, nn.BatchNorm1d) and isinstance(norm_hidden, nn.BatchNorm1d)
        assert isinstance(linear_in, nn.Linear) and isinstance(linear_out, nn.Linear)
        hidden = norm_hidden(linear_in(norm_in(pooled)))
        logits = linear_out(F.elu(hidden))
        chosen = logits.argmax(dim=1) if classes is None else classes
        elu_slope = torch.where(hidden > 0, torch.ones_like(hidden), hidden.exp())
        d_hidden = linear_out.weight[chosen] * elu_slope * _scale(norm_hidden)
        return logits, (d_hidden @ linear_in.weight) * _scale(norm_in)


class FineGrainedModel(nn.Module):
    """A backbone, a head, and a way to train them: the contract of all methods.

    Args:
        backbone: images → A.
        config: how the model was made.
        options: the method's own options, an instance of `Options`.

    Attributes:
        Options: the dataclass of the method's options.
        epoch: the epoch being trained, from 0; set by the training loop.
        diagnostics: scalars of the last `training_loss`, detached, for the training log.
    """

    Options: ClassVar[type[Any]]

    def __init__(self, backbone: Backbone, config: ModelConfig, options: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.options = options
        self.epoch = 0
        self.diagnostics: dict[str, Tensor] = {}

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.config.class_names)

    @property
    def closed_form(self) -> bool:
        """Whether β needs no autograd in eval mode, so that the heat map can be exported."""
        return type(self)._gradcam is not FineGrainedModel._gradcam

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, h, w), normalised → logits, features and attention.

        Only the backbone runs in half precision under autocast: the head is small, and its gradient
        is what Grad-CAM reads.
        """
        return self.classify(self.backbone(images))

    def classify(self, features: Tensor) -> Output:
        """A (B, C, H, W), in any precision → the output of `head` in float32."""
        with autocast_off(features):
            return self.head(widen(features))

    def head(self, features: Tensor) -> Output:
        """A (B, C, H, W) → logits, features and attention; all that lies between A and y."""
        raise NotImplementedError(f"{type(self).__name__} does not implement head()")

    def training_loss(self, images: Tensor, targets: Tensor) -> LossTerms:
        """The loss of one batch: images (B, 3, h, w), labels (B,). Here: mean cross-entropy."""
        output = self(images)
        self.diagnostics = {"accuracy": accuracy(output.logits, targets)}
        classification = F.cross_entropy(output.logits, targets)
        return LossTerms(classification, classification, torch.zeros_like(classification))

    def gradcam(
        self, features: Tensor, classes: Tensor | None = None, *, at: Place = "features"
    ) -> tuple[Output, Tensor]:
        """The output of the head, and β (B, C) of Eq. (4), whatever the gradient mode around it.

        Args:
            features: A (B, C, H, W), in any precision.
            classes: k for each image (B,), int64; None for the predicted class.
            at: where y_k is differentiated: at A, through the attention, or behind it at `Output.attended`.

        Returns:
            The output, and β in float32 or wider; all detached.
        """
        with autocast_off(features):
            output, beta = self._gradcam(widen(features.detach()), classes, at)
        attention = output.attention
        if attention is not None:
            attention = Attention(*(part.detach() for part in attention))
        return Output(output.logits.detach(), output.features.detach(), attention), beta.detach()

    def _gradcam(self, features: Tensor, classes: Tensor | None, at: Place) -> tuple[Output, Tensor]:
        """By autograd through the head, for every method; overridden where there is a closed form."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = features.clone().requires_grad_()
            output = self.head(leaf)
            place = leaf if at == "features" else output.attended
            return output, gradcam_weights(output.logits, place, classes)

    @classmethod
    def published_backbone(cls, name: str, options: Any) -> str:
        """The name of the network to start from where published weights are wanted, by default as given.

        Args:
            name: what was asked for.
            options: an instance of `Options`.
        """
        return name

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """The parameters that start from pre-trained weights, and learn at the backbone's rate."""
        return list(self.backbone.parameters())


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """The share of images whose largest logit is that of the label, a scalar between 0 and 1."""
    return (logits.detach().argmax(dim=1) == targets).float().mean()


def _scale(norm: nn.BatchNorm1d) -> Tensor:
    """What BatchNorm multiplies by in eval mode."""
    assert norm.running_var is not None
    return norm.weight * torch.rsqrt(norm.running_var + norm.eps)
