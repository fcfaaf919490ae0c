"""The report of a run directory: what it shows, what it needs, and that it loads nothing."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ggam.data.records import FineGrainedDataset
from ggam.evaluation.accuracy import EvalReport, EvaluationError
from ggam.evaluation.evaluate import evaluate
from ggam.evaluation.explanations import evaluate_explanations
from ggam.methods.base import FineGrainedModel
from ggam.report import ReportError, write_report
from ggam.report.gallery import MOST
from ggam.report.pairs import MOST_PAIRS, MOST_PICTURES
from ggam.runs.run import Results, Run


class Page(HTMLParser):
    """What a page refers to, and its pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag == "img":
            self.pictures.append(found)
        if tag in ("div", "table", "tr", "td", "th", "article", "figure", "details", "main", "h4"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("div", "table", "tr", "td", "th", "article", "figure", "details", "main", "h4"):
            assert self.open.pop() == tag


@pytest.fixture
def run(tmp_path: Path, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset) -> Run:
    """A finished run, as training leaves it."""
    run, report = Run(tmp_path), evaluate(models["ggam"], annotated)
    for name in ("last", "best"):
        report.write(run.evaluation(name))
    epochs = {name: {"epoch": epoch, **report.summary()} for name, epoch in (("last", 3), ("best", 2))}
    protocol = "best epoch chosen on 10% of the training pictures"
    run.write_results(Results(protocol, "best", epochs, {"train": 9, "val": 1, "test": 9}, 120.0))
    run.write_config({"data": "noises", "method": "ggam", "clip": None, "name": "<i>", "ggam": {"warmup": 2}})
    run.metrics_file.write_text(
        "epoch,accuracy,val_accuracy,guidance,channel_entropy,target_entropy,lr,backbone_lr,seconds\n"
        "1,0.25,,0.5,0.9,0.8,0.1,0.01,40\n"
        "2,0.5,0.75,nan,0.9,0.8,0.05,0.005,40\n"
        "3,0.75,0.5,0.25,0.7,0.6,0.0,0.0,40\n",
        "utf-8",
    )
    return run


def test_a_page_that_needs_nothing_but_its_folder(
    run: Run, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    path = write_report(run, models["ggam"], annotated)
    assert path == run.folder / "report" / "index.html"
    text = path.read_text("utf-8")
    page = Page(text)
    assert page.open == []
    beside = {address for address in page.addresses if not address.startswith("data:image/jpeg;base64,")}
    assert beside == {f"gallery/{file.name}" for file in (path.parent / "gallery").iterdir()}
    assert "http" not in text and "@import" not in text
    assert all(picture["alt"] for picture in page.pictures)
    assert max(len(address) for address in page.addresses) < 28_000


def test_what_the_page_says(
    run: Run, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    report = EvalReport.read(run.evaluation("best"))
    text = write_report(run, models["ggam"], annotated).read_text("utf-8")
    assert "ggam on noises" in text
    assert f"{100 * report.top1:.1f}\N{NO-BREAK SPACE}%" in text
    assert "Best epoch chosen on 10% of the training pictures." in text
    assert "Trained for 3 epochs in 2 minutes." in text
    wrong = sum(prediction.rank > 1 for prediction in report.predictions)
    assert f"{wrong} of {wrong}" in text
    assert "What its heat maps are worth" not in text
    pair = report.most_confused(1)[0]
    names = [name.replace("<", "&lt;").replace(">", "&gt;") for name in report.class_names]
    assert f"{names[pair.label]} taken for {names[pair.predicted]}" in text
    assert f'<span class="quiet">{pair.pictures} of 3 pictures' in text
    assert "auk <b>" not in text and "&lt;i&gt;" in text  # names and settings are text, not markup
    charts = re.findall(r'<figure class="chart"><figcaption>(.*?)</figcaption>', text)
    assert [re.sub(r"<b>.*?</b>|<[^>]*>", " ", chart).split() for chart in charts] == [
        ["Accuracy", "training", "validation"],
        ["Guidance", "guidance"],
        ["Entropy", "channel", "target"],
        ["Learning", "rate", "lr", "backbone"],
    ]
    assert "75.0 %" in charts[0] and "0.25" in charts[1]
    assert "Attention T" in text
    assert '<th scope="row">clip</th><td>–</td>' in text
    assert '<th scope="row">ggam.warmup</th><td>2</td>' in text


def test_few_examples_if_few_are_wanted(
    run: Run, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    text = write_report(run, models["ggam"], annotated, examples=1).read_text("utf-8")
    shown = text[text.index("Where it looks") :]
    assert len(re.findall(r"<article", shown)) == 2


def test_the_tables_of_measured_heat_maps(
    run: Run, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    explanations = evaluate_explanations(models["ggam"], annotated, perturbed=2)
    text = write_report(run, models["ggam"], annotated, explanations=explanations).read_text("utf-8")
    assert Page(text).open == []
    section = text[text.index("What its heat maps are worth") : text.index("What it confuses")]
    assert section.count("<table") == 3
    assert "Centre blob" in section and "Random cells" in section
    mean = explanations.estimates()["energy"]["gradcam"].mean
    assert f'<b class="tied">{100 * mean:.1f}</b>' in section
    assert "Fewer than 10 pictures have" in section
    assert section.count("<dt>") == len(explanations.metrics)
    assert "the share of all heat that lies on the object" in section
    assert 'class="star"' not in section  # nothing is better where there are too few pictures


def test_the_data_of_the_gallery_is_no_markup(
    run: Run, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    text = write_report(run, models["ggam"], annotated).read_text("utf-8")
    found = re.search(r'id="gallery-data">(.*?)</script>', text, re.DOTALL)
    assert found and "<" not in found[1]
    data = json.loads(found[1])
    assert data["classes"] == list(annotated.class_names)
    assert sorted(shot[6] for shot in data["shots"]) == [f"{index}.png" for index in range(9)]


def test_the_page_and_its_folder_stay_within_the_limit(
    run: Run,
    models: dict[str, FineGrainedModel],
    annotated: FineGrainedDataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the limit leaves beside the page is all that the sheets get."""
    page = write_report(run, models["ggam"], annotated)
    limit = page.stat().st_size + 25_000
    monkeypatch.setattr("ggam.report.run.LIMIT", limit)
    write_report(run, models["ggam"], annotated)
    size = sum(file.stat().st_size for file in page.parent.rglob("*") if file.is_file())
    assert limit - 25_000 < size <= limit


def test_a_page_of_as_many_pictures_as_there_may_be_leaves_room_for_them(
    run: Run, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    """Its rows of data and lists of mistakes, with long names, and every answer wrong."""
    text = write_report(run, models["ggam"], annotated).read_text("utf-8")
    name = "Black_footed_Albatross_0046_18.jpg"
    shot = [199, 90, 199, 198, 1000, 1000, name, 100, 3]
    row = len(json.dumps(shot, separators=(",", ":"))) + 1
    mistake = 2 * len("Black footed Albatross 100.0 %, ")  # in the alternative text, and below it
    tiles = MOST_PAIRS * (2 + 4 * MOST_PICTURES) + 12 * 3
    pictures = tiles * 14_000  # twice what a photograph takes at this size
    assert len(text) + MOST * (row + mistake) + pictures < 5_000_000


def test_only_the_last_epoch_and_no_curves(
    run: Run, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    run.write_results(Results("last epoch", "last", {"last": {"epoch": 3}}, {"test": 9}, 1.0))
    run.metrics_file.unlink()
    run.config_file.unlink()
    text = write_report(run, models["ggam"], annotated).read_text("utf-8")
    assert "the best epoch" not in text
    assert 'class="chart"' not in text
    assert "not recorded" in text


def test_nothing_wrong(run: Run, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset) -> None:
    report = EvalReport.read(run.evaluation("best"))
    right = [p._replace(predicted=p.label, rank=1) for p in report.predictions]
    replace(report, predictions=tuple(right)).write(run.evaluation("best"))
    text = write_report(run, models["ggam"], annotated).read_text("utf-8")
    assert "every test picture was recognised" in text


def test_what_it_says_of_calibration(
    run: Run, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    text = write_report(run, models["ggam"], annotated).read_text("utf-8")
    assert "(15 bins; not calibrated: temperature 1)." in text
    report = replace(
        EvalReport.read(run.evaluation("best")), temperature=2.5, uncalibrated_ece=0.0625, maps=None
    )
    report.write(run.evaluation("best"))
    text = write_report(run, models["ggam"], annotated).read_text("utf-8").replace("\N{NO-BREAK SPACE}", " ")
    assert f"Expected calibration error: {100 * report.ece:.1f} %, with the logits divided by" in text
    assert "the temperature 2.50 that was fitted on the validation part; 6.2 % without (15 bins)." in text


def test_other_pictures_than_those_evaluated_are_refused(
    run: Run, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    with pytest.raises(ReportError, match="9 pictures that are not the 8"):
        write_report(run, models["ggam"], annotated.subset(range(8)))


def test_an_evaluation_that_is_missing(
    run: Run, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    (run.evaluation("best") / "metrics.json").unlink()
    with pytest.raises(EvaluationError, match="ggam evaluate"):
        write_report(run, models["ggam"], annotated)
