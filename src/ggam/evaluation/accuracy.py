"""How often a model is right: the report of an evaluation, written and read back.

All shares and accuracies are floats from 0 to 1.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, get_type_hints

import numpy as np
import torch
from torch import Tensor

from ggam.drawing.tables import to_csv
from ggam.evaluation.calibration import calibration_error
from ggam.evaluation.confusion import confusion_picture
from ggam.system.files import write_atomic

METRICS_FILE = "metrics.json"
PER_CLASS_FILE = "per_class.csv"
CONFUSION_FILE = "confusion.csv"
PREDICTIONS_FILE = "predictions.csv"
PICTURE_FILE = "confusion.png"
MAPS_FILE = "maps.npy"


class EvaluationError(ValueError):
    """An evaluation that cannot be made, or whose files cannot be read."""


class Prediction(NamedTuple):
    """What the model said of one picture."""

    path: str
    """Relative to the data set's folder."""
    label: int
    predicted: int
    """The class with the largest logit, the first of several."""
    probability: float
    """Of the predicted class, calibrated."""
    label_probability: float
    """Of the label, calibrated."""
    rank: int
    """The label's place among the classes, from 1; 1 is a right answer."""


class ClassScore(NamedTuple):
    """The accuracy of one class."""

    name: str
    pictures: int
    """Pictures of this class."""
    accuracy: float | None
    """The share of them that was recognised; None where there are none."""


class Confusion(NamedTuple):
    """How often one class was taken for another."""

    label: int
    predicted: int
    pictures: int


@dataclass(frozen=True)
class EvalReport:
    """The outcome of an evaluation; everything else is derived from its predictions.

    Attributes:
        class_names: K names, in the order of the labels.
        predictions: one for each picture, in the order of the data set.
        loss: mean cross-entropy of the logits as trained, in nats.
        maps: the Grad-CAM heat maps of the predicted classes (N, H, W), if they were asked for.
        temperature: what the logits were divided by for the probabilities.
        uncalibrated_ece: the calibration error of the logits as trained.
    """

    class_names: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    loss: float
    maps: np.ndarray | None = field(default=None, compare=False, repr=False)
    temperature: float = field(default=1.0, kw_only=True)
    uncalibrated_ece: float = field(kw_only=True)

    @property
    def top1(self) -> float:
        """The share of pictures whose predicted class is the label."""
        return self._within(1)

    @property
    def top5(self) -> float:
        """The share of pictures whose label is among the min(5, K) most probable classes."""
        return self._within(5)

    @property
    def macro(self) -> float:
        """The mean of the classes' accuracies, over the classes that have pictures."""
        present = [score.accuracy for score in self.per_class if score.accuracy is not None]
        return sum(present) / len(present)

    @property
    def ece(self) -> float:
        """The calibration error of the probabilities, see `calibration_error`."""
        sure = np.array([p.probability for p in self.predictions])
        return calibration_error(sure, np.array([p.rank == 1 for p in self.predictions]))

    @cached_property
    def per_class(self) -> tuple[ClassScore, ...]:
        """The accuracy of each class, in the order of the labels."""
        counts = self.confusion.sum(axis=1)
        right = self.confusion.diagonal()
        return tuple(
            ClassScore(name, int(n), float(hits / n) if n else None)
            for name, n, hits in zip(self.class_names, counts, right, strict=True)
        )

    @cached_property
    def confusion(self) -> np.ndarray:
        """Counts (K, K): row the label, column the predicted class."""
        matrix = np.zeros((len(self.class_names), len(self.class_names)), dtype=np.int64)
        for prediction in self.predictions:
            matrix[prediction.label, prediction.predicted] += 1
        return matrix

    def most_confused(self, count: int) -> list[Confusion]:
        """The `count` most frequent confusions, the most frequent first; only those that occurred."""
        pairs = Counter((p.label, p.predicted) for p in self.predictions if p.rank > 1)
        ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
        return [Confusion(label, predicted, n) for (label, predicted), n in ordered[:count]]

    def summary(self) -> dict[str, float | int]:
        """The metrics in one flat mapping, for JSON."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "macro": self.macro,
            "loss": self.loss,
            "pictures": len(self.predictions),
            "classes": len(self.class_names),
            "ece": self.ece,
            "ece_uncalibrated": self.uncalibrated_ece,
            "temperature": self.temperature,
        }

    def write(self, directory: Path | str) -> None:
        """Write `metrics.json`, three CSV files and `confusion.png`, and `maps.npy` if there are maps."""
        directory = Path(directory)
        names = self.class_names
        write_atomic(directory / METRICS_FILE, json.dumps(self.summary(), indent=2) + "\n")
        write_atomic(directory / PER_CLASS_FILE, to_csv(ClassScore._fields, self.per_class))
        matrix = ([name, *row] for name, row in zip(names, self.confusion.tolist(), strict=True))
        write_atomic(directory / CONFUSION_FILE, to_csv(["label \\ predicted", *names], matrix))
        named = ((*p, names[p.label], names[p.predicted]) for p in self.predictions)
        header = [*Prediction._fields, "label_name", "predicted_name"]
        write_atomic(directory / PREDICTIONS_FILE, to_csv(header, named))
        pairs = self.most_confused(12)
        write_atomic(directory / PICTURE_FILE, confusion_picture(self.confusion, names, pairs))
        if self.maps is None:
            (directory / MAPS_FILE).unlink(missing_ok=True)
        else:
            array = io.BytesIO()  # NumPy writing to the file itself would not say that the disk is full
            np.save(array, self.maps)
            write_atomic(directory / MAPS_FILE, array.getvalue())

    @classmethod
    def read(cls, directory: Path | str) -> "EvalReport":
        """Read what `write` wrote.

        Raises:
            EvaluationError: if a file is missing or damaged.
        """
        directory = Path(directory)
        try:
            metrics = json.loads((directory / METRICS_FILE).read_text("utf-8"))
            classes = _rows(directory / PER_CLASS_FILE)
            predictions, kinds = _rows(directory / PREDICTIONS_FILE), get_type_hints(Prediction)
            maps = directory / MAPS_FILE
            return cls(
                class_names=tuple(row["name"] for row in classes),
                predictions=tuple(
                    Prediction(*(kind(row[name]) for name, kind in kinds.items())) for row in predictions
                ),
                loss=float(metrics["loss"]),
                temperature=float(metrics["temperature"]),
                uncalibrated_ece=float(metrics["ece_uncalibrated"]),
                maps=np.load(maps) if maps.exists() else None,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"{directory}: no complete evaluation ({error!r}); make it again with `ggam evaluate`"
            ) from error

    def _within(self, places: int) -> float:
        return sum(p.rank <= places for p in self.predictions) / len(self.predictions)


def predictions_from(
    logits: Tensor, labels: Tensor, paths: Sequence[str], *, temperature: float
) -> list[Prediction]:
    """The predictions of a batch.

    Args:
        logits: y (B, K).
        labels: (B,).
        paths: B names.
        temperature: what the logits are divided by for the probabilities.

    Raises:
        EvaluationError: if a logit is NaN or infinite: such a model would seem right now and then.
    """
    logits, labels = logits.detach().cpu().double(), labels.cpu()
    broken = (~logits.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise EvaluationError(
            f"{paths[broken[0]]}: the model's logits are not finite; its weights are damaged or its "
            "training diverged"
        )
    probabilities = (logits / temperature).softmax(dim=1)
    predicted = logits.argmax(dim=1)
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1]) < labels[:, None]
    ranks = 1 + ((logits > own) | ((logits == own) & earlier)).sum(dim=1)
    own_share, best_share = (
        probabilities.gather(1, chosen[:, None]).squeeze(1) for chosen in (labels, predicted)
    )
    columns = (labels, predicted, best_share, own_share, ranks)
    rows = zip(paths, *(column.tolist() for column in columns), strict=True)
    return [Prediction(*row) for row in rows]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
