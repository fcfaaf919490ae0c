"""Confused pairs: the contrast of two classes, and what stands beside it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ggam.data.records import FineGrainedDataset
from ggam.evaluation.accuracy import EvalReport
from ggam.evaluation.evaluate import evaluate
from ggam.methods.base import FineGrainedModel
from ggam.report.pairs import MOST_PICTURES, Contrast, confused_pairs, contrast, mistake_card


@pytest.fixture
def report(models: dict[str, FineGrainedModel], annotated: FineGrainedDataset) -> EvalReport:
    """Labels 0 1 2 0 1 2 0 1 2: 0 is always taken for 2, and 1 once for 0; the later, the surer."""
    report = evaluate(models["ggam"], annotated)
    said = (2, 1, 2, 2, 1, 2, 2, 0, 2)
    predictions = [
        p._replace(predicted=k, rank=1 if k == p.label else 2, probability=0.5 + i / 20)
        for i, (p, k) in enumerate(zip(report.predictions, said, strict=True))
    ]
    return replace(report, predictions=tuple(predictions))


@pytest.mark.parametrize("method", ["baseline", "ggam"])
def test_the_contrast_is_grad_cam_of_the_difference_of_two_logits(
    models: dict[str, FineGrainedModel], annotated: FineGrainedDataset, report: EvalReport, method: str
) -> None:
    """By autograd of y_said - y_true itself, at the feature map that is classified."""
    model = models[method]
    found = contrast(model, annotated, 3, report.predictions[3])
    image = annotated[3][0][None]
    features = model.features(image)["last"].detach().requires_grad_()
    output = model.head({"last": features}, image)
    place, logits = output.attended, output.logits[0]
    for heat, score in zip(found, (logits[2], logits[0], logits[2] - logits[0]), strict=True):
        (gradient,) = torch.autograd.grad(score, place, retain_graph=True)
        expected = (gradient.mean(dim=(2, 3), keepdim=True) * place).sum(dim=1).relu()[0]
        np.testing.assert_allclose(heat, expected.detach().numpy(), rtol=1e-4, atol=1e-7)


def test_pairs_in_order_with_examples_of_both_classes(
    models: dict[str, FineGrainedModel], annotated: FineGrainedDataset, report: EvalReport
) -> None:
    first, second = confused_pairs(models["ggam"], annotated, report)
    assert (first.confusion, first.reverse) == ((0, 2, 3), 0)
    assert (second.confusion, second.reverse) == ((1, 0, 1), 0)
    assert [tile.title for tile in first.examples.tiles] == ["auk <b>", "crake"]
    assert [card.heading for card in first.mistakes] == ["6.png", "3.png", "0.png"][:MOST_PICTURES]
    picture, said, true, rather = first.mistakes[0].tiles
    assert picture.alt == "A auk <b> that was taken for crake"
    assert said.title.startswith("for crake") and true.title.startswith("for auk <b>")
    assert rather.title.startswith("crake rather than auk <b>")
    assert first.mistakes[0].note.startswith("80.0\N{NO-BREAK SPACE}% crake")


@pytest.mark.parametrize(
    ("said", "true", "title"),
    [
        (2.0, 0.8, "for auk <b>, peak × 0.4"),
        (0.01, 12.34, "for auk <b>, peak × 1200"),
        (2.0, 0.0, "for auk <b> (empty)"),
        (0.0, 2.0, "for auk <b>"),
    ],
)
def test_how_high_the_map_of_the_true_class_is_beside_that_of_the_answer(
    annotated: FineGrainedDataset, report: EvalReport, said: float, true: float, title: str
) -> None:
    flat = np.ones((2, 2), dtype=np.float32)
    card = mistake_card(annotated, report, 0, Contrast(said * flat, true * flat, flat))
    assert card.tiles[2].title == title


def test_both_directions_are_told(
    models: dict[str, FineGrainedModel], annotated: FineGrainedDataset, report: EvalReport
) -> None:
    flipped = list(report.predictions)
    flipped[8] = flipped[8]._replace(predicted=0, rank=2)
    first = confused_pairs(models["ggam"], annotated, replace(report, predictions=tuple(flipped)))[0]
    assert first.reverse == 1


def test_nothing_is_confused(
    models: dict[str, FineGrainedModel], annotated: FineGrainedDataset, report: EvalReport
) -> None:
    right = tuple(p._replace(predicted=p.label, rank=1) for p in report.predictions)
    assert confused_pairs(models["ggam"], annotated, replace(report, predictions=right)) == []
