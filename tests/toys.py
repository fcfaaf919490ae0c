"""Methods made for tests: each uses a part of the contract that the plain ones do not."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ggam.backbones.build import LAST, Features
from ggam.equations.gradcam import closed_form_weights
from ggam.methods.base import FineGrainedModel, Output, ParameterGroup, Place, Stage, new_and_pretrained
from ggam.methods.baseline import Baseline, BaselineOptions
from ggam.methods.classifier import Classifier, logit_gradient
from ggam.methods.registry import METHODS


@dataclass(frozen=True, kw_only=True)
class CropOptions:
    """The options of the method of two passes."""

    zoom: float = 0.5
    """The share of the picture's side that the second pass sees."""


class TwoPasses(FineGrainedModel):
    """Looks again at the middle of the picture, and answers with both views."""

    Options = CropOptions
    options: CropOptions
    zooming: Tensor

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.first = Classifier(self.backbone.channels, self.num_classes)
        self.second = Classifier(self.backbone.channels, self.num_classes)
        zoom = self.options.zoom
        self.register_buffer("zooming", torch.tensor([[[zoom, 0.0, 0.0], [0.0, zoom, 0.0]]]))

    def head(self, features: Features, images: Tensor) -> Output:
        side = images.shape[-1]
        cut = round(side * (1 - self.options.zoom) / 2)
        grid = F.affine_grid(
            self.zooming.expand(images.shape[0], -1, -1), list(images.shape), align_corners=False
        )
        crops = F.grid_sample(
            images, grid, align_corners=False
        )  # refuses images that are not in float32, as the grid is
        last, again = features[LAST], self.features(crops)[LAST]
        logits = self.first(last.mean(dim=(2, 3))) + self.second(again.mean(dim=(2, 3)))
        box = torch.tensor([cut, cut, side - cut, side - cut]) / side
        return Output(logits, last, last, {"crops": box.expand(images.shape[0], 1, 4)})


class Staged(Baseline):
    """Its classifier learns first, with norms at rest, then everything; it starts from the pictures."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.register_buffer("centre", torch.zeros(self.backbone.channels))

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        with torch.no_grad():
            means = [self.features(images)[LAST].mean(dim=(0, 2, 3)) for images, _ in batches]
            self.get_buffer("centre").copy_(torch.stack(means).mean(dim=0))

    def head(self, features: Features, images: Tensor) -> Output:
        last = features[LAST]
        pooled = last.mean(dim=(2, 3)) - self.get_buffer("centre")
        return Output(self.classifier(pooled), last, last, {})

    def closed_form(self, output: Output, classes: Tensor, at: Place) -> Tensor | None:
        pooled = output.attended.mean(dim=(2, 3)) - self.get_buffer("centre")
        gradient = logit_gradient(self.classifier, pooled, classes)
        return None if gradient is None else closed_form_weights(output.attended, gradient, pool="average")

    def stages(self) -> Sequence[Stage]:
        return (Stage(share=1, learns=("classifier",)), Stage(share=1, frozen_statistics=("backbone",)))


class OwnLosses(Baseline):
    """Two terms, of which one comes and goes, a map of an earlier stage, and three rates."""

    earlier_maps: ClassVar[Mapping[str, int]] = {"previous": 1}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.side = nn.Conv2d(self.backbone.channels_of["previous"], self.num_classes, 1)

    def head(self, features: Features, images: Tensor) -> Output:
        output = super().head(features, images)
        side = self.side(features["previous"]).amax(dim=(2, 3))
        return output._replace(logits=output.logits + 0.1 * side, maps={"side": side})

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        output = self(images)
        terms = {"classification": F.cross_entropy(output.logits, labels)}
        if self.epoch:
            terms["side"] = 0.1 * F.cross_entropy(output.maps["side"], labels)
        return terms

    def parameter_groups(self) -> list[ParameterGroup]:
        new, backbone = new_and_pretrained(self, self.backbone.parameters())
        side = list(self.side.parameters())
        rest = [p for p in new.parameters if all(p is not each for each in side)]
        return [
            new._replace(parameters=rest),
            backbone,
            ParameterGroup("side", side, factor=3.0, decay=False),
        ]


@dataclass(frozen=True, kw_only=True)
class CollidingOptions(BaselineOptions):
    """An option that is called as one of ggam's."""

    warmup: int = 1
    """Epochs of something else."""


class Colliding(Baseline):
    """The plain network, with an option of a name that ggam has too."""

    Options = CollidingOptions


TOYS: dict[str, type[FineGrainedModel]] = {
    "twopasses": TwoPasses,
    "staged": Staged,
    "ownlosses": OwnLosses,
    "colliding": Colliding,
}


@contextmanager
def registered() -> Any:
    """The toys among `METHODS` inside the block."""
    METHODS.update(TOYS)
    try:
        yield
    finally:
        for name in TOYS:
            del METHODS[name]
