"""The classes that a model confuses most: why did it say this rather than that?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ggam.data.records import FineGrainedDataset
from ggam.drawing.pages import data_uri, percent
from ggam.equations.gradcam import gradcam_map
from ggam.evaluation.accuracy import Confusion, EvalReport, Prediction
from ggam.explanations.explanation import explain
from ggam.methods.base import FineGrainedModel
from ggam.report.cards import Card, Tile, heat_tile, picture_of

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

    label: int
    predicted: int
    heading: str
    note: str
    examples: Card
    """A picture of each class that was recognised."""
    mistakes: tuple[Card, ...]
    pictures: int
    """Pictures that were mistaken in this way."""


def confused_pairs(model: FineGrainedModel, dataset: FineGrainedDataset, report: EvalReport) -> list[Pair]:
    """The most frequent confusions, the most frequent first, each with the pictures mistaken most surely.

    Args:
        model: the model that was evaluated.
        dataset: with its evaluation transform.
        report: the evaluation of this model on this data set.

    Raises:
        DataError: if a picture cannot be read.
    """
    pairs = report.most_confused(MOST_PAIRS)
    chosen = [_mistaken(report, pair)[:MOST_PICTURES] for pair in pairs]
    indices = [index for some in chosen for index in some]
    found = dict(zip(indices, contrasts(model, dataset, indices, report.predictions), strict=True))
    return [
        _pair(dataset, report, pair, [(index, found[index]) for index in some])
        for pair, some in zip(pairs, chosen, strict=True)
    ]


def contrasts(
    model: FineGrainedModel,
    dataset: FineGrainedDataset,
    indices: Sequence[int],
    predictions: Sequence[Prediction],
) -> list[Contrast]:
    """What speaks for the predicted class, for the label, and for the one rather than the other.

    Eq. (4) is linear in y, so β of y_said - y_true is β_said - β_true: the third map costs no pass.

    Args:
        model: a model of this package.
        dataset: with its evaluation transform.
        indices: of the samples to explain.
        predictions: of all samples.
    """
    found = []
    for index in indices:
        classes = torch.tensor([[predictions[index].predicted, predictions[index].label]])
        seen = explain(model, dataset[index][0][None], classes)
        rather = gradcam_map(seen.attended, seen.weights[:, 0] - seen.weights[:, 1])
        maps = torch.cat([seen.maps[0], rather]).float().cpu().numpy()
        found.append(Contrast(*maps))
    return found


def _mistaken(report: EvalReport, pair: Confusion) -> list[int]:
    """The pictures of a confusion, those that the model was most convinced of first."""
    found = [i for i, p in enumerate(report.predictions) if (p.label, p.predicted) == pair[:2]]
    return sorted(found, key=lambda index: -report.predictions[index].probability)


def _pair(
    dataset: FineGrainedDataset,
    report: EvalReport,
    pair: Confusion,
    mistakes: Sequence[tuple[int, Contrast]],
) -> Pair:
    name, other = report.class_names[pair.label], report.class_names[pair.predicted]
    of_class = report.per_class[pair.label].pictures
    reverse = int(report.confusion[pair.predicted, pair.label])
    note = f"{pair.pictures} of {of_class} pictures"
    examples = [_typical(dataset, report, label) for label in (pair.label, pair.predicted)]
    return Pair(
        pair.label,
        pair.predicted,
        f"{name} taken for {other}",
        f"{note}; the other way round {reverse}" if reverse else note,
        Card("The two classes", "", "", tuple(tile for tile in examples if tile is not None)),
        tuple(mistake_card(dataset, report, index, found) for index, found in mistakes),
        pair.pictures,
    )


def _typical(dataset: FineGrainedDataset, report: EvalReport, label: int) -> Tile | None:
    """The picture of a class that the model recognises best."""
    found = [i for i, p in enumerate(report.predictions) if p.label == label]
    index = max(found, key=lambda i: report.predictions[i].label_probability, default=None)
    if index is None:
        return None
    name, sure = report.class_names[label], report.predictions[index].label_probability
    source = data_uri(picture_of(dataset, index))
    return Tile(source, f"A typical {name}", name, f"{percent(sure)} sure")


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
    tiles = (
        Tile(data_uri(picture), f"A {name} that was taken for {said}", "Picture"),
        heat_tile(picture, found.said, f"for {said}", f"Grad-CAM map of this picture for {said}"),
        heat_tile(picture, found.true, f"for {name}{ratio}", f"Grad-CAM map of this picture for {name}"),
        heat_tile(
            picture, found.rather, f"{said} rather than {name}", f"What speaks for {said} rather than {name}"
        ),
    )
    sure = f"{percent(prediction.probability)} {said}, {percent(prediction.label_probability)} {name}"
    return Card(prediction.path.rsplit("/", 1)[-1], sure, "wrong", tiles)
