"""Insertion, deletion and average drop against torch-cam, and by hand on models that are sums of pixels."""

import builtins
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ggam
from ggam import create_model

# isort: split
from torchcam.methods import GradCAM  # pyright: ignore[reportMissingImports]
from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric  # pyright: ignore[reportMissingImports]

from ggam.evaluation.accuracy import EvaluationError
from ggam.evaluation.faithfulness import (
    blurred,
    confidence,
    deletion,
    exchange,
    insertion,
    pixel_ranks,
    probability_of,
    road,
)
from ggam.evaluation.heat import scaled
from ggam.methods.base import FineGrainedModel

assert ggam.__version__  # imported before torchcam, see ggam.system.torchvision_hook


class Logits(nn.Module):
    """A model as torch-cam expects it."""

    def __init__(self, model: FineGrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


@pytest.fixture
def model() -> FineGrainedModel:
    torch.manual_seed(1)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
    model = create_model(backbone, num_classes=5, image_size=16, method="baseline").eval()
    with torch.no_grad():
        list(model.parameters())[-2].mul_(30)  # sure of itself, so that the scores move
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def softmax(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1)


def brightness(images: Tensor, classes: Tensor) -> Tensor:
    """The mean of the pixels: a model whose curves are known."""
    return images.mean(dim=(1, 2, 3))


class Given(GradCAM):
    """torch-cam's extractor with maps from elsewhere, so that its metrics see the very same ones.

    Their own would do, were it not for ties, which they take from the top left corner on.
    """

    def __init__(self, model: FineGrainedModel, maps: Tensor) -> None:
        super().__init__(Logits(model).eval(), target_layer=model.backbone.body)
        self.maps = maps

    def __call__(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        return [self.maps]


@pytest.mark.parametrize("steps", [4, 7, 300])  # 256 pixels: divided evenly, unevenly, and one by one
def test_insertion_and_deletion_are_torchcams(model: FineGrainedModel, images: Tensor, steps: int) -> None:
    maps = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(5))
    classes = model(images).logits.argmax(dim=1)
    for baseline, ours, key in (
        (torch.zeros_like, deletion, "deletion_auc"),
        (blurred, insertion, "insertion_auc"),
    ):
        theirs = DeletionInsertionMetric(Given(model, maps), softmax, steps=steps, baseline=baseline)
        theirs.update(images)
        area = ours(probability_of(model), images, maps, classes, steps=steps).area
        assert area.mean().item() == pytest.approx(theirs.summary()[key], abs=1e-5)
        assert area.std() > 0.01, "a test that could fail"


def test_average_drop_and_increase_are_torchcams(model: FineGrainedModel, images: Tensor) -> None:
    maps = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(5))
    classes = model(images).logits.argmax(dim=1)
    theirs = ClassificationMetric(Given(model, scaled(maps)), softmax)
    theirs.update(images)
    ours = confidence(probability_of(model), images, maps, classes)
    assert ours.drop.mean().item() == pytest.approx(theirs.summary()["avg_drop"], abs=1e-5)
    assert ours.drop.mean() > 0.01
    assert ours.increase.mean().item() == pytest.approx(theirs.summary()["conf_increase"])


def test_the_curve_of_a_model_that_counts_pixels() -> None:
    """Four bright pixels of sixteen, found first by a perfect map and last by the worst one."""
    image = torch.zeros(2, 3, 4, 4)
    image[:, :, :2, :2] = 1
    maps = torch.stack([image[0, 0], 1 - image[0, 0]])
    curves = exchange(brightness, image, torch.zeros_like(image), maps, torch.zeros(2), steps=4, seed=0)
    assert curves.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curves.scores.tolist() == [[0.25, 0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25, 0]]
    assert curves.area.tolist() == [0.03125, 0.21875]


def test_ties_fall_in_one_random_order() -> None:
    flat = torch.ones(2, 2, 2)
    ranks = pixel_ranks(flat, torch.Size((8, 8)), seed=0)
    assert sorted(ranks[0].flatten().tolist()) == list(range(64))
    assert torch.equal(ranks[0], ranks[1])
    assert ranks[0].flatten().tolist() != list(range(64))
    assert torch.equal(ranks, pixel_ranks(0 * flat, torch.Size((8, 8)), seed=0))
    assert not torch.equal(ranks, pixel_ranks(flat, torch.Size((8, 8)), seed=1))


def test_a_map_without_heat_shows_nothing(model: FineGrainedModel, images: Tensor) -> None:
    classes = torch.zeros(3, dtype=torch.int64)
    score = probability_of(model)
    empty = confidence(score, images, torch.zeros(3, 4, 4), classes)
    whole, grey = score(images, classes), score(0 * images, classes)
    torch.testing.assert_close(empty.drop, ((whole - grey) / whole).clamp(min=0))
    flat = confidence(score, images, torch.full((3, 4, 4), 0.2), classes)
    assert not flat.drop.any() and not flat.increase.any()


def test_scoring_leaves_the_model_alone(model: FineGrainedModel, images: Tensor) -> None:
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probability_of(model)(images, torch.zeros(3, dtype=torch.int64))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_blurring_keeps_the_mean_and_takes_the_detail() -> None:
    image = torch.zeros(1, 3, 224, 224)
    image[:, :, 112, 112] = 1
    soft = blurred(image)
    torch.testing.assert_close(soft.sum(), image.sum())
    rows = (soft[0, 0] > 0).nonzero()
    assert rows.min(dim=0).values.tolist() == [107, 107]  # eleven pixels wide, as in RISE
    assert rows.max(dim=0).values.tolist() == [117, 117]
    assert blurred(torch.ones(1, 3, 8, 8)).allclose(torch.ones(1, 3, 8, 8))


def test_road_prefers_the_map_of_what_the_model_reads() -> None:
    """A model that sees the upper left only: taking that away costs all, the rest nothing."""

    def corner(images: Tensor, classes: Tensor) -> Tensor:
        return images[:, :, :8, :8].std(dim=(1, 2, 3))

    noise = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    heat = torch.zeros(2, 4, 4)
    heat[0, :2, :2] = 1
    heat[1] = 1 - heat[0]
    classes = torch.zeros(2, dtype=torch.int64)
    state = torch.get_rng_state()
    right, wrong = road(corner, noise, heat, classes).tolist()
    assert right > 0 > wrong
    assert torch.equal(torch.get_rng_state(), state)
    assert road(corner, noise, heat, classes).tolist() == [right, wrong]
    assert isinstance(right, float) and np.isfinite(right)


def test_road_without_its_library_is_answered_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pytorch_grad_cam"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EvaluationError, match=r"ggam\[faithfulness\]") as caught:
        road(brightness, torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 2), torch.zeros(1))
    assert "\n" not in str(caught.value)
