"""The plain network: the backbone, average pooling and the same classifier as every other one-pass method."""

from dataclasses import dataclass

from torch import Tensor

from ggam.backbones.build import LAST, Backbone, Features
from ggam.equations.gradcam import closed_form_weights
from ggam.methods.base import FineGrainedModel, ModelConfig, Output, Place
from ggam.methods.classifier import Classifier, logit_gradient


@dataclass(frozen=True, kw_only=True)
class BaselineOptions:
    """The baseline has no options."""


class Baseline(FineGrainedModel):
    """The plain network: y = classifier(average(A)), row 1 of Table 3."""

    Options = BaselineOptions

    def __init__(self, backbone: Backbone, config: ModelConfig, options: BaselineOptions) -> None:
        super().__init__(backbone, config, options)
        self.classifier = Classifier(backbone.channels, self.num_classes)

    def head(self, features: Features, images: Tensor) -> Output:
        """A (B, C, H, W) → logits; no attention."""
        last = features[LAST]
        return Output(self.classifier(last.mean(dim=(2, 3))), last, last, {})

    def closed_form(self, output: Output, classes: Tensor, at: Place) -> Tensor | None:
        """β of an average-pooled map: the classifier's gradient, divided by H·W."""
        attended = output.attended
        gradient = logit_gradient(self.classifier, attended.mean(dim=(2, 3)), classes)
        return None if gradient is None else closed_form_weights(attended, gradient, pool="average")
