"""The report of an evaluation against hand-counted values, torchmetrics, and itself read back."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from ggam.evaluation.accuracy import (
    Confusion,
    EvalReport,
    EvaluationError,
    Prediction,
    predictions_from,
)


def report_of(
    logits: torch.Tensor, labels: torch.Tensor, maps: np.ndarray | None = None, *, temperature: float = 1.0
) -> EvalReport:
    paths = [f"class/{index}.jpg" for index in range(len(labels))]
    predictions = predictions_from(logits, labels, paths, temperature=temperature)
    names = tuple(f"class {index}" for index in range(logits.shape[1]))
    return EvalReport(names, tuple(predictions), 0.25, maps, temperature=temperature, uncalibrated_ece=0.125)


def hand_counted() -> EvalReport:
    """Four pictures, three classes: two right, one of class 0 taken for 2, one of class 1 for 2."""
    logits = torch.tensor([[2.0, 1, 0], [0, 1, 2], [0, 1, 2], [-1, 0, 5]])
    return report_of(logits, torch.tensor([0, 0, 1, 2]))


def test_a_hand_counted_evaluation() -> None:
    report = hand_counted()
    assert report.top1 == 0.5
    assert report.top5 == 1.0  # three classes: every label is among the first three
    assert report.macro == pytest.approx((0.5 + 0 + 1) / 3)
    assert [(s.name, s.pictures, s.accuracy) for s in report.per_class] == [
        ("class 0", 2, 0.5),
        ("class 1", 1, 0.0),
        ("class 2", 1, 1.0),
    ]
    assert report.confusion.tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 1]]
    assert report.most_confused(5) == [Confusion(0, 2, 1), Confusion(1, 2, 1)]
    assert report.most_confused(1) == [Confusion(0, 2, 1)]
    assert [p.rank for p in report.predictions] == [1, 3, 2, 1]
    e = math.e
    total = 1 + e + e**2
    assert report.predictions[0].probability == pytest.approx(e**2 / total)
    assert report.predictions[1].label_probability == pytest.approx(1 / total)


def test_a_temperature_moves_the_probabilities_and_nothing_else() -> None:
    """y = (2, 1, 0) over 2: e, √e and 1, divided by their sum."""
    logits, labels = torch.tensor([[2.0, 1, 0], [0, 1, 2]]), torch.tensor([1, 2])
    cool, warm = report_of(logits, labels), report_of(logits, labels, temperature=2.0)
    total = math.e + math.sqrt(math.e) + 1
    assert warm.predictions[0].probability == pytest.approx(math.e / total)
    assert warm.predictions[0].label_probability == pytest.approx(math.sqrt(math.e) / total)
    assert [(p.predicted, p.rank) for p in warm.predictions] == [(0, 2), (2, 1)]
    assert [(p.predicted, p.rank) for p in cool.predictions] == [(0, 2), (2, 1)]
    assert warm.summary()["temperature"] == 2.0
    # One of two is right, and both are equally sure: the error is the gap to a half.
    assert warm.ece == pytest.approx(math.e / total - 0.5)


def test_a_class_without_pictures_counts_in_no_mean() -> None:
    report = report_of(torch.eye(3), torch.tensor([0, 1, 1]))
    assert report.per_class[2].accuracy is None
    assert report.macro == pytest.approx((1 + 0.5) / 2)


def test_ties_go_to_the_first_class_in_prediction_and_rank_alike() -> None:
    labels = torch.tensor([0, 1, 2])
    predictions = predictions_from(torch.zeros(3, 3), labels, ["a", "b", "c"], temperature=1.0)
    assert [p.predicted for p in predictions] == [0, 0, 0]
    assert [p.rank for p in predictions] == [1, 2, 3]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused_by_the_name_of_the_picture(bad: float) -> None:
    logits = torch.zeros(2, 3)
    logits[1, 2] = bad
    with pytest.raises(EvaluationError, match=r"second\.jpg.*not finite"):
        predictions_from(logits, torch.tensor([0, 0]), ["first.jpg", "second.jpg"], temperature=1.0)


def test_large_logits_do_not_overflow() -> None:
    large = torch.tensor([[3e4, -3e4]])
    (prediction,) = predictions_from(large, torch.tensor([1]), ["a"], temperature=0.1)
    assert prediction.probability == 1.0
    assert prediction.label_probability == 0.0


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**31), classes=st.integers(2, 12), count=st.integers(1, 40), integers=st.booleans()
)
def test_agrees_with_torchmetrics(seed: int, classes: int, count: int, integers: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    report = report_of(logits, labels)
    micro = multiclass_accuracy(logits, labels, classes, average="micro")
    assert report.top1 == pytest.approx(micro.item())
    top = multiclass_accuracy(logits, labels, classes, average="micro", top_k=min(5, classes))
    assert report.top5 == pytest.approx(top.item())
    matrix = multiclass_confusion_matrix(logits, labels, classes)
    assert report.confusion.tolist() == matrix.tolist()
    assert sum(pair.pictures for pair in report.most_confused(classes**2)) == int(
        matrix.sum() - matrix.diagonal().sum()
    )


def test_a_report_read_back_is_the_same(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (9,), generator=generator)
    maps = np.random.default_rng(0).random((9, 3, 2), dtype=np.float32)
    report = report_of(torch.randn(9, 4, generator=generator), labels, maps, temperature=1.5)
    awkward = replace(report, class_names=("plain", 'a, "b"', "Ελιά 花", "$x^"))
    awkward.write(tmp_path)
    again = EvalReport.read(tmp_path)
    assert again == awkward
    assert again.maps is not None and np.array_equal(again.maps, maps)
    metrics = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert metrics == {
        "top1": report.top1,
        "top5": report.top5,
        "macro": report.macro,
        "loss": 0.25,
        "pictures": 9,
        "classes": 4,
        "ece": report.ece,
        "ece_uncalibrated": 0.125,
        "temperature": 1.5,
    }
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "confusion.csv",
        "confusion.png",
        "maps.npy",
        "metrics.json",
        "per_class.csv",
        "predictions.csv",
    ]


def test_tables_are_for_people_too(tmp_path: Path) -> None:
    hand_counted().write(tmp_path)
    assert (tmp_path / "confusion.csv").read_text("utf-8").splitlines() == [
        "label \\ predicted,class 0,class 1,class 2",
        "class 0,1,0,1",
        "class 1,0,0,1",
        "class 2,0,0,1",
    ]
    header, first, *_ = (tmp_path / "predictions.csv").read_text("utf-8").splitlines()
    assert header == "path,label,predicted,probability,label_probability,rank,label_name,predicted_name"
    assert first.startswith("class/0.jpg,0,0,0.66524") and first.endswith(",1,class 0,class 0")


def test_maps_of_an_earlier_evaluation_do_not_stay(tmp_path: Path) -> None:
    report = hand_counted()
    replace(report, maps=np.zeros((4, 2, 2))).write(tmp_path)
    report.write(tmp_path)
    assert EvalReport.read(tmp_path).maps is None


def test_a_missing_or_damaged_evaluation_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=f"{tmp_path}.*ggam evaluate"):
        EvalReport.read(tmp_path)
    hand_counted().write(tmp_path)
    (tmp_path / "predictions.csv").write_text("path,label\na,b\n", "utf-8")
    with pytest.raises(EvaluationError, match="ggam evaluate"):
        EvalReport.read(tmp_path)


@pytest.mark.parametrize("classes", [2, 17, 30, 200])
def test_the_confusion_picture_grows_with_the_classes_and_stays_a_picture(
    classes: int, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(classes).repeat(3)
    logits = torch.nn.functional.one_hot(labels, classes) + 0.6 * torch.randn(
        3 * classes, classes, generator=generator
    )
    report_of(logits, labels).write(tmp_path)
    with Image.open(tmp_path / "confusion.png") as picture:
        picture.load()
        assert picture.width > picture.height >= 500
        assert picture.width <= 2000


def test_nothing_confused(tmp_path: Path) -> None:
    predictions = (Prediction("a", 0, 0, 0.9, 0.9, 1), Prediction("b", 1, 1, 0.9, 0.9, 1))
    report = EvalReport(("x", "y"), predictions, 0.1, uncalibrated_ece=0.1)
    assert report.most_confused(3) == []
    report.write(tmp_path)
