"""The plain network: the backbone, average pooling and the same classifier as every other method."""

from dataclasses import dataclass

from torch import Tensor

from ggam.backbones.build import Backbone
from ggam.equations.gradcam import closed_form_weights
from ggam.methods.base import Classifier, FineGrainedModel, ModelConfig, Output, Place


@dataclass(frozen=True, kw_only=True)
class BaselineOptions:
    """The baseline has no options."""


class Baseline(FineGrainedModel):
    """y = classifier(average(A)): row 1 of Table 3."""

    Options = BaselineOptions

    def __init__(self, backbone: Backbone, config: ModelConfig, options: BaselineOptions) -> None:
        super().__init__(backbone, config, options)
        self.classifier = Classifier(backbone.channels, self.num_classes)

    def head(self, features: Tensor) -> Output:
        """A (B, C, H, W) → logits; no attention."""
        return Output(self.classifier(features.mean(dim=(2, 3))), features, None)

    def _gradcam(self, features: Tensor, classes: Tensor | None, at: Place) -> tuple[Output, Tensor]:
        """In closed form in eval mode; by autograd where BatchNorm is training."""
        if self.classifier.training:
            return super()._gradcam(features, classes, at)
        logits, gradient = self.classifier.logit_gradient(features.mean(dim=(2, 3)), classes)
        return Output(logits, features, None), closed_form_weights(features, gradient, pool="average")
