"""Costs of rows, against sums by hand."""

import pytest
import torch
from torch import nn

from ggam import create_model
from ggam.studies.costs import count_flops, measure_costs
from ggam.training.recipe import Recipe

SMALL = {"backbone": "torchvision/squeezenet1_1", "image_size": 64, "batch_size": 4, "precision": "fp32"}


def recipe(**options: object) -> Recipe:
    return Recipe.from_dict({**SMALL, "accelerator": "cpu", **options})


def test_flops_by_hand() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4, bias=False), nn.ReLU())
    model = create_model(backbone, num_classes=5, method="baseline", image_size=32)
    convolution = 2 * 8 * 8 * 8 * 3 * 4 * 4
    classifier = 2 * (8 * 512 + 512 * 5)
    assert count_flops(model, torch.randn(1, 3, 32, 32)) == convolution + classifier


def test_rows_side_by_side() -> None:
    seen = []
    recipes = {
        "plain": recipe(method="baseline"),
        "guided": recipe(method="ggam", ggam={"warmup": 1}),
    }
    costs = measure_costs(recipes, 7, rounds=2, on_round=lambda done, total: seen.append((done, total)))
    plain, guided = costs["plain"], costs["guided"]
    assert list(costs) == ["plain", "guided"]
    assert seen == [(1, 2), (2, 2)]
    # two layers of 512 × 32 weights with their biases (or without) are all that the attention adds
    assert 0 <= guided.parameters - plain.parameters - 2 * 512 * 32 <= 512 + 32
    assert guided.flops - plain.flops == 2 * (2 * 512 * 32)
    assert plain.step_seconds > 0 and guided.step_seconds > 0
    # weights and momentum at the least, and the attention's above that
    assert guided.peak_memory_bytes > plain.peak_memory_bytes > 4 * 2 * plain.parameters


def test_the_guidance_is_measured_although_it_would_not_have_begun() -> None:
    late = measure_costs({"late": recipe(method="ggam", ggam={"warmup": 50})}, 7, rounds=1)["late"]
    soon = measure_costs({"soon": recipe(method="ggam")}, 7, rounds=1)["soon"]
    assert late.peak_memory_bytes == pytest.approx(soon.peak_memory_bytes, rel=0.01)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="rounds=0"):
        measure_costs({"a": recipe()}, 7, rounds=0)
    with pytest.raises(ValueError, match="cpu, cuda"):
        measure_costs({"a": recipe(), "b": recipe(accelerator="cuda")}, 7, rounds=1)
    with pytest.raises(ValueError, match="expected rows"):
        measure_costs({}, 7, rounds=1)
