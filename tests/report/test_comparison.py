"""The comparison page: its figures, its groups, and its honesty about the control."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ggam.data.records import FineGrainedDataset
from ggam.evaluation.accuracy import EvalReport
from ggam.evaluation.evaluate import evaluate
from ggam.evaluation.localization import localize_maps
from ggam.methods.base import FineGrainedModel
from ggam.report import ComparisonEntry, write_comparison


def with_answers(report: EvalReport, right: list[bool]) -> EvalReport:
    """The same report with other answers: the label where `right`, else the next class."""
    predictions = [
        p._replace(predicted=p.label if ok else (p.label + 1) % 3, rank=1 if ok else 2)
        for p, ok in zip(report.predictions, right, strict=True)
    ]
    return replace(report, predictions=tuple(predictions))


@pytest.fixture
def entries(models: dict[str, FineGrainedModel], annotated: FineGrainedDataset) -> list[ComparisonEntry]:
    """Nine pictures: baseline right on the first four, ggam on the third to the eighth."""
    answers = {"baseline": [i < 4 for i in range(9)], "ggam": [2 <= i < 8 for i in range(9)]}
    found = []
    for name, model in models.items():
        report = evaluate(model, annotated, maps=True)
        assert report.maps is not None
        location = localize_maps(torch.from_numpy(report.maps), annotated)
        found.append(ComparisonEntry(name, model, with_answers(report, answers[name]), location, 12.3))
    return found


def test_the_page(entries: list[ComparisonEntry], annotated: FineGrainedDataset, tmp_path: Path) -> None:
    path = write_comparison(
        tmp_path / "deep" / "index.html",
        entries,
        annotated,
        title="Birds & co",
        subject="bird",
        sheet=Image.new("RGB", (2000, 500), "white"),
        commands=[("ggam train DATA --out <run>", "Train on your own.")],
    )
    text = path.read_text("utf-8")
    assert "<h1>Birds &amp; co</h1>" in text
    assert "Ggam names 66.7\N{NO-BREAK SPACE}% of 9 unseen pictures correctly, baseline 44.4" in text
    groups = re.findall(r"<h3>(.*?) <span[^>]*>(\d+) of 9", text)
    assert groups == [
        ("Both right", "2"),
        ("Only baseline right", "2"),
        ("Only ggam right", "4"),
        ("Both wrong", "1"),
    ]
    assert "<pre>ggam train DATA --out &lt;run&gt;</pre>" in text
    assert "discriminative: crown and tail" in text
    assert 'width="1080" height="270"' in text
    assert "33.3" in text  # guessing among three classes
    assert all(address.startswith("data:image/jpeg") for address in re.findall(r'src="([^"]*)"', text))
    assert "http" not in text
    assert "baseline 12 s, ggam 12 s" in text


def test_the_best_model_comes_first_in_the_headline_whichever_it_is(
    entries: list[ComparisonEntry], annotated: FineGrainedDataset, tmp_path: Path
) -> None:
    swapped = [
        replace(entries[0], report=entries[1].report),
        replace(entries[1], report=entries[0].report),
    ]
    text = write_comparison(tmp_path / "a.html", swapped, annotated, title="x").read_text("utf-8")
    assert "Baseline names 66.7" in text


def test_a_row_that_the_centre_wins_says_so(
    entries: list[ComparisonEntry], annotated: FineGrainedDataset, tmp_path: Path
) -> None:
    def located(on_object: float) -> list[ComparisonEntry]:
        return [
            replace(e, localization=replace(e.localization, on_object=on_object, centre_on_object=0.8))
            for e in entries
        ]

    warning = "does no worse, so this row says nothing of the models"
    worse = write_comparison(tmp_path / "a.html", located(0.7), annotated, title="x").read_text("utf-8")
    better = write_comparison(tmp_path / "b.html", located(0.9), annotated, title="x").read_text("utf-8")
    assert worse.count(warning) == better.count(warning) + 1


def test_pictures_without_annotations_leave_accuracy_only(
    entries: list[ComparisonEntry], annotated: FineGrainedDataset, tmp_path: Path
) -> None:
    plain = FineGrainedDataset(
        [replace(sample, box=None, parts=()) for sample in annotated.samples],
        annotated.class_names,
        root=annotated.root,
        layout="test",
        split="test",
        transform=annotated.transform,
    )
    bare = []
    for entry in entries:
        assert entry.report.maps is not None
        location = localize_maps(torch.from_numpy(entry.report.maps), plain)
        bare.append(replace(entry, localization=location, seconds=None))
    text = write_comparison(tmp_path / "a.html", bare, plain, title="x").read_text("utf-8")
    assert "Looks at" not in text
    assert "discriminative:" not in text
    assert "Time to train" not in text


def test_one_model_or_another_data_set_is_refused(
    entries: list[ComparisonEntry], annotated: FineGrainedDataset, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        write_comparison(tmp_path / "a.html", entries[:1], annotated, title="x")
    with pytest.raises(ValueError, match="9 pictures that are not the 6"):
        write_comparison(tmp_path / "a.html", entries, annotated.subset(range(6)), title="x")
