"""The classes that a model confuses most: why did it say this rather than that?"""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import torch

from ggam.data.records import FineGrainedDataset
from ggam.drawing.pages import data_uri, percent
from ggam.equations.gradcam import gradcam_map
from ggam.evaluation.accuracy import Confusion, EvalReport, Prediction
from ggam.explanations.explanation import explain
from ggam.methods.base import FineGrainedModel
from ggam.report.cards import Card, Tile, by_answer, heat_tile, picture_of

MOST_PAIRS = 8
MOST_PICTURES = 3
"""The most mistaken pictures that are shown of each pair."""


class Contrast(NamedTuple):
    """Three Grad-CAM maps (H, W) of one picture that was mistaken."""

    said: np.ndarray
    """Of the predicted class."""
    true: np.ndarray
    """Of the label."""
    rather: np.ndarray
    """Of the difference of their logits, y_said - y_true."""


@dataclass(frozen=True)
class Pair:
    """One class that was taken for another."""

    confusion: Confusion
    reverse: int
    """Pictures that were mistaken the other way round."""
    examples: Card
    """A picture of each class that was recognised."""
    mistakes: list[Card]


def confused_pairs(model: FineGrainedModel, dataset: FineGrainedDataset, report: EvalReport) -> list[Pair]:
    """The most frequent confusions, the most frequent first, each with the pictures mistaken most surely.

    Args:
        model: the model that was evaluated.
        dataset: with its evaluation transform.
        report: the evaluation of this model on this data set.

    Raises:
        DataError: if a picture cannot be read.
    """
    predictions = report.predictions
    wrong, _ = by_answer(report)
    pairs = []
    for pair in report.most_confused(MOST_PAIRS):
        typical = [tile for label in pair[:2] for tile in _typical(dataset, report, label)]
        mistaken = [i for i in wrong if (predictions[i].label, predictions[i].predicted) == pair[:2]]
        cards = [
            mistake_card(dataset, report, index, contrast(model, dataset, index, predictions[index]))
            for index in mistaken[:MOST_PICTURES]
        ]
        reverse = int(report.confusion[pair.predicted, pair.label])
        pairs.append(Pair(pair, reverse, Card("The two classes", "", "", typical), cards))
    return pairs


def contrast(
    model: FineGrainedModel, dataset: FineGrainedDataset, index: int, prediction: Prediction
) -> Contrast:
    """What speaks for the predicted class, for the label, and for the one rather than the other.

    Eq. (4) is linear in y, so β of y_said - y_true is β_said - β_true: the third map costs no pass.

    Args:
        model: a model of this package.
        dataset: with its evaluation transform.
        index: of the sample to explain.
        prediction: what was said of it.
    """
    classes = torch.tensor([[prediction.predicted, prediction.label]])
    seen = explain(model, dataset[index][0][None], classes)
    rather = gradcam_map(seen.attended, seen.weights[:, 0] - seen.weights[:, 1])
    return Contrast(*torch.cat([seen.maps[0], rather]).float().cpu().numpy())


def _typical(dataset: FineGrainedDataset, report: EvalReport, label: int) -> list[Tile]:
    """The picture of a class that the model recognises best; none of a class without pictures."""
    found = [index for index, p in enumerate(report.predictions) if p.label == label]
    if not found:
        return []
    best = max(found, key=lambda index: report.predictions[index].label_probability)
    name, sure = report.class_names[label], report.predictions[best].label_probability
    return [Tile(data_uri(picture_of(dataset, best)), f"A typical {name}", name, f"{percent(sure)} sure")]


def mistake_card(dataset: FineGrainedDataset, report: EvalReport, index: int, found: Contrast) -> Card:
    """One mistaken picture and its three maps.

    Args:
        dataset: with its evaluation transform.
        report: its evaluation.
        index: of the picture.
        found: its maps.
    """
    prediction = report.predictions[index]
    name, said = report.class_names[prediction.label], report.class_names[prediction.predicted]
    picture = picture_of(dataset, index)
    said_peak, true_peak = found.said.max(), found.true.max()
    ratio = f", peak × {float(f'{true_peak / said_peak:.2g}'):g}" if said_peak > 0 and true_peak > 0 else ""
    rather = f"{said} rather than {name}"
    tiles = [
        Tile(data_uri(picture), f"A {name} that was taken for {said}", "Picture"),
        heat_tile(picture, found.said, f"for {said}", f"Grad-CAM map of this picture for {said}"),
        heat_tile(picture, found.true, f"for {name}{ratio}", f"Grad-CAM map of this picture for {name}"),
        heat_tile(picture, found.rather, rather, f"What speaks for {rather}"),
    ]
    sure = f"{percent(prediction.probability)} {said}, {percent(prediction.label_probability)} {name}"
    return Card(PurePosixPath(prediction.path).name, sure, "wrong", tiles)
