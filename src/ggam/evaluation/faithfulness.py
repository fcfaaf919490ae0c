"""Does the model depend on what a heat map points at? Pictures are perturbed by their maps, and asked again.

All scores are the calibrated probability of the explained class, from 0 to 1. Pictures are normalised, so
that 0 is the mean colour that the model subtracts. Cells that tie in a map are taken in one random
order, the same for every picture: a map that is flat in places must not gain or lose by where its ties lie.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as picture_functional

from ggam.backbones.build import eval_mode
from ggam.evaluation.accuracy import EvaluationError
from ggam.evaluation.evaluate import Precision, autocast
from ggam.evaluation.heat import scaled
from ggam.methods.base import FineGrainedModel

STEPS = 20
"""Into how many equal parts the pixels are divided for insertion and deletion."""
ROAD_PERCENTILES = (20, 40, 60, 80)
"""The shares of pixels, in percent, that ROAD removes in turn."""
_BLUR = 5 / 224

Score = Callable[[Tensor, Tensor], Tensor]
"""Images (B, 3, h, w) and a class for each (B,) → the class's probability (B,)."""


class Curves(NamedTuple):
    """The score while pixels are exchanged, and the area under it."""

    fractions: Tensor
    """The share of pixels exchanged (P,), from 0 to 1."""
    scores: Tensor
    """(B, P)."""

    @property
    def area(self) -> Tensor:
        """Area under each curve (B,), by the trapezoid rule."""
        return torch.trapezoid(self.scores, self.fractions.to(self.scores), dim=1)


def probability_of(model: FineGrainedModel, precision: Precision = "fp32") -> Score:
    """How sure a model is of given classes, in eval mode and without recording.

    Args:
        model: left in the mode it is in.
        precision: `bf16` runs the backbone in half precision.
    """

    def score(images: Tensor, classes: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(model, precision), eval_mode(model):
            logits = model(images).logits
        return model.config.probabilities(logits).gather(1, classes[:, None]).squeeze(1)

    return score


def insertion(
    score: Score, images: Tensor, maps: Tensor, classes: Tensor, *, steps: int = STEPS, seed: int = 0
) -> Curves:
    """The score while the hottest pixels are put back into a blurred picture; a larger area is better.

    Petsiuk et al., "RISE: Randomized input sampling for explanation of black-box models" (BMVC 2018),
    sect. 4.2: a Gaussian blur of σ = 5 pixels, cut off at ±5, on pictures of 224; scaled along with others.

    Args:
        score: what is watched.
        images: (B, 3, h, w), normalised.
        maps: (B, H, W), upsampled bilinearly to the picture.
        classes: (B,).
        steps: into how many equal parts the pixels are divided; the source has 224.
        seed: the order of cells that tie.
    """
    return exchange(score, blurred(images), images, maps, classes, steps=steps, seed=seed)


def deletion(
    score: Score, images: Tensor, maps: Tensor, classes: Tensor, *, steps: int = STEPS, seed: int = 0
) -> Curves:
    """The score while the hottest pixels give way to the mean colour; a smaller area is better.

    Source and arguments as `insertion`.
    """
    return exchange(score, images, torch.zeros_like(images), maps, classes, steps=steps, seed=seed)


def exchange(
    score: Score, start: Tensor, end: Tensor, maps: Tensor, classes: Tensor, *, steps: int, seed: int
) -> Curves:
    """The score while pixels of one picture give way to those of another, the hottest ones first.

    Args:
        score: what is watched.
        start: the pictures as they are at first (B, 3, h, w).
        end: what they become (B, 3, h, w).
        maps: (B, H, W).
        classes: (B,).
        steps: into how many equal parts the pixels are divided.
        seed: the order of cells that tie.
    """
    ranks = pixel_ranks(maps, start.shape[-2:], seed)
    pixels = ranks[0].numel()
    part = -(-pixels // steps)
    counts = [*range(0, pixels, part), pixels]
    scores = [score(torch.where((ranks < count)[:, None], end, start), classes) for count in counts]
    return Curves(torch.tensor(counts, dtype=torch.float64) / pixels, torch.stack(scores, dim=1))


def pixel_ranks(maps: Tensor, size: torch.Size, seed: int) -> Tensor:
    """The place of each pixel from the hottest, 0, to the coldest, h·w − 1.

    Args:
        maps: (B, H, W), upsampled bilinearly without aligned corners.
        size: h, w.
        seed: the order of pixels that tie.

    Returns:
        (B, h, w), int64, a permutation for each map.
    """
    flat = _upsampled(maps, size).flatten(1)
    chance = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed)).to(flat.device)
    order = chance[flat[:, chance].argsort(dim=1, descending=True, stable=True)]
    ranks = torch.empty_like(order)
    places = torch.arange(order.shape[1], device=flat.device).expand_as(order)
    return ranks.scatter_(1, order, places).view(-1, *size)


def blurred(images: Tensor) -> Tensor:
    """The pictures (B, 3, h, w) as RISE blurs them, scaled to their size."""
    sigma = _BLUR * min(images.shape[-2:])
    kernel = 2 * max(1, round(sigma)) + 1
    return picture_functional.gaussian_blur(images, [kernel, kernel], [sigma, sigma])


class Confidence(NamedTuple):
    """What becomes of the score when only what is hot is shown."""

    drop: Tensor
    """max(0, y − o)/y (B,): the share of the score that is lost; less is better."""
    increase: Tensor
    """1 where o > y (B,), else 0."""


def confidence(score: Score, images: Tensor, maps: Tensor, classes: Tensor) -> Confidence:
    """Average drop and increase of confidence: y on the picture, o on the picture times its map.

    Chattopadhay et al., "Grad-CAM++: Generalized gradient-based visual explanations for deep convolutional
    networks" (WACV 2018), sect. 4.1. The map is scaled to 0…1; a map without heat leaves the mean colour.

    Args:
        score: what is watched.
        images: (B, 3, h, w), normalised.
        maps: (B, H, W), upsampled bilinearly to the picture.
        classes: (B,).
    """
    weights = _upsampled(scaled(maps.float()), images.shape[-2:])
    whole, shown = score(images, classes), score(images * weights, classes)
    drop = (whole - shown).clamp(min=0) / whole.clamp(min=torch.finfo(whole.dtype).tiny)
    return Confidence(drop, (shown > whole).to(whole.dtype))


def _upsampled(maps: Tensor, size: torch.Size) -> Tensor:
    """Maps (B, H, W) at the size of the pictures (B, 1, h, w)."""
    return F.interpolate(maps[:, None].float(), tuple(size), mode="bilinear", align_corners=False)


def road(score: Score, images: Tensor, maps: Tensor, classes: Tensor, *, seed: int = 0) -> Tensor:
    """ROAD: (LeRF − MoRF)/2, mean over `ROAD_PERCENTILES`; larger is better.

    Rong et al., "A consistent and efficient evaluation strategy for attribution methods" (ICML 2022), as
    pytorch-grad-cam has it: the coldest pixels (LeRF) or the hottest ones (MoRF) are replaced by a noisy
    linear interpolation of their neighbours, and the change of the score is taken. A linear system is
    solved for each picture and percentile, which takes seconds for pictures of 448 pixels.

    Args:
        score: what is watched.
        images: (B, 3, h, w), normalised.
        maps: (B, H, W).
        classes: (B,).
        seed: of the noise, and of the order of cells that tie.

    Returns:
        (B,), from −1 to 1.

    Raises:
        EvaluationError: if pytorch-grad-cam is not installed.
    """
    combined = require_road()(list(ROAD_PERCENTILES))
    ranks = pixel_ranks(maps, images.shape[-2:], seed)
    heat = (1 - ranks.double() / ranks[0].numel()).cpu().numpy()

    def all_scores(batch: Tensor) -> Tensor:
        return score(batch, classes)[:, None]

    targets = [lambda row: row[0]] * len(images)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's, about how it is given tensors there
        torch.manual_seed(seed)
        return torch.from_numpy(combined(images, heat, targets, all_scores))


def require_road() -> Any:
    """pytorch-grad-cam's ROAD.

    Raises:
        EvaluationError: if it is not installed.
    """
    try:
        from pytorch_grad_cam.metrics.road import ROADCombined
    except ImportError as error:
        raise EvaluationError(
            "ROAD needs pytorch-grad-cam: pip install 'ggam[faithfulness]', or leave --road away"
        ) from error
    return ROADCombined
