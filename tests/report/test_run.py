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
def run(tmp_path: Path, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset) -> Path:
    """A finished run, as training leaves it."""
    report = evaluate(models["ggam"], annotated)
    for name in ("last", "best"):
        report.write(tmp_path / "evaluation" / name)
    results = {
        "last": {"epoch": 3, **report.summary()},
        "best": {"epoch": 2, **report.summary()},
        "selected": "best",
        "protocol": "best epoch chosen on 10% of the training pictures",
    }
    (tmp_path / "results.json").write_text(json.dumps(results), "utf-8")
    (tmp_path / "config.yaml").write_text("method: ggam\nlr: 0.1\nclip: null\nname: <i>\n", "utf-8")
    (tmp_path / "metrics.csv").write_text(
        "epoch,train_accuracy,val_accuracy,train_guidance,lr,seconds\n"
        "1,0.25,,0.5,0.1,40\n2,0.5,0.75,nan,0.05,40\n3,0.75,0.5,0.25,0.0,40\n",
        "utf-8",
    )
    return tmp_path


def test_a_page_that_needs_nothing_but_its_folder(
    run: Path, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    path = write_report(run, models["ggam"], annotated)
    assert path == run / "report" / "index.html"
    text = path.read_text("utf-8")
    page = Page(text)
    assert page.open == []
    beside = {address for address in page.addresses if not address.startswith("data:image/jpeg;base64,")}
    assert beside == {f"gallery/{file.name}" for file in (run / "report" / "gallery").iterdir()}
    assert "http" not in text and "@import" not in text
    assert all(picture["alt"] for picture in page.pictures)
    assert max(len(address) for address in page.addresses) < 28_000


def test_what_the_page_says(
    run: Path, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    report = EvalReport.read(run / "evaluation" / "best")
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
    assert "auk <b>" not in text and "&lt;i&gt;" in text  # names and settings are text, not markup
    assert text.count('class="chart"') == 3  # accuracy, guidance, learning rate
    assert "Attention T" in text
    assert '<th scope="row">clip</th><td>–</td>' in text


def test_few_examples_if_few_are_wanted(
    run: Path, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    text = write_report(run, models["ggam"], annotated, examples=1).read_text("utf-8")
    shown = text[text.index("Where it looks") :]
    assert len(re.findall(r"<article", shown)) == 2


def test_the_tables_of_measured_heat_maps(
    run: Path, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
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
    run: Path, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    text = write_report(run, models["ggam"], annotated).read_text("utf-8")
    found = re.search(r'id="gallery-data">(.*?)</script>', text, re.DOTALL)
    assert found and "<" not in found[1]
    data = json.loads(found[1])
    assert data["classes"] == list(annotated.class_names)
    assert sorted(shot[6] for shot in data["shots"]) == [f"{index}.png" for index in range(9)]


def test_the_page_and_its_folder_stay_within_the_limit(
    run: Path,
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
    run: Path, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
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
    run: Path, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    results = {"last": {"epoch": 3}, "selected": "last", "protocol": "last epoch"}
    (run / "results.json").write_text(json.dumps(results), "utf-8")
    for file in (run / "evaluation" / "best").iterdir():
        file.unlink()
    (run / "evaluation" / "best").rmdir()
    (run / "metrics.csv").unlink()
    (run / "config.yaml").unlink()
    text = write_report(run, models["ggam"], annotated).read_text("utf-8")
    assert "the best epoch" not in text
    assert 'class="chart"' not in text
    assert "not recorded" in text


def test_nothing_wrong(run: Path, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset) -> None:
    report = EvalReport.read(run / "evaluation" / "best")
    right = [p._replace(predicted=p.label, rank=1) for p in report.predictions]
    replace(report, predictions=tuple(right)).write(run / "evaluation" / "best")
    text = write_report(run, models["ggam"], annotated).read_text("utf-8")
    assert "every test picture was recognised" in text


def test_what_it_says_of_calibration(
    run: Path, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    assert "(15 bins; temperature 1)." in write_report(run, models["ggam"], annotated).read_text("utf-8")
    report = replace(
        EvalReport.read(run / "evaluation" / "best"), temperature=2.5, calibrated_ece=0.0625, maps=None
    )
    report.write(run / "evaluation" / "best")
    text = write_report(run, models["ggam"], annotated).read_text("utf-8").replace("\N{NO-BREAK SPACE}", " ")
    assert f"Expected calibration error: {100 * report.ece:.1f} % as trained, 6.2 % with" in text
    assert "the temperature 2.50 that was fitted" in text


def test_other_pictures_than_those_evaluated_are_refused(
    run: Path, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    with pytest.raises(ReportError, match="9 pictures that are not the 8"):
        write_report(run, models["ggam"], annotated.subset(range(8)))


@pytest.mark.parametrize("content", [None, "{", "[]", '{"selected": "best"}', '{"selected": "x", "x": {}}'])
def test_results_that_are_missing_or_damaged(
    run: Path, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset, content: str | None
) -> None:
    if content is None:
        (run / "results.json").unlink()
    else:
        (run / "results.json").write_text(content, "utf-8")
    with pytest.raises(ReportError, match=r"results\.json: not the results of a finished training"):
        write_report(run, models["ggam"], annotated)


def test_an_evaluation_that_is_missing(
    run: Path, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    (run / "evaluation" / "best" / "metrics.json").unlink()
    with pytest.raises(EvaluationError, match="ggam evaluate"):
        write_report(run, models["ggam"], annotated)


def test_a_configuration_that_is_no_mapping(
    run: Path, models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    (run / "config.yaml").write_text("- a\n- b\n", "utf-8")
    with pytest.raises(ReportError, match=r"config\.yaml: expected a flat mapping"):
        write_report(run, models["ggam"], annotated)
