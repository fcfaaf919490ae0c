"""The files of a study, read back."""

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ggam.studies.costs import Cost
from ggam.studies.definition import STUDIES, table2, table3
from ggam.studies.outputs import Setup, write_study
from ggam.studies.records import Failure, RunRecord
from ggam.studies.table import StudyTable, build_table
from ggam.training.recipe import Recipe

Measured = Callable[..., list[RunRecord]]
SETUP = Setup("my <flowers>", Recipe().to_dict(), "ggam study table3 DATA --out STUDIES")
FILES = {
    "runs.csv",
    "table.csv",
    "table.json",
    "table.md",
    "table.tex",
    "figure.png",
    "figure.pdf",
    "index.html",
}


@pytest.fixture
def table(measured: Measured) -> StudyTable:
    """Table 3 half done: three rows, one of them with a failure, and the costs of two."""
    records = [
        *measured({"baseline": [0.5, 0.6]}, on_part=0.25, centre_on_part=0.5, novel=0.125),
        *measured({"S": [0.6, 0.8], "SG": [0.9]}, on_part=0.75, centre_on_part=0.5),
    ]
    costs = {"baseline": Cost(10, 20, 0.5, 40), "S": Cost(15, 20, 0.75, 50)}
    return build_table(table3(), records, [Failure("SG", 1, "ValueError: a <b> & c_d")], costs)


class Tags(HTMLParser):
    """Counts what is open, to see that a page is well-formed."""

    VOID = frozenset({"meta", "img", "source", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


def test_all_files_and_nothing_else(table: StudyTable, tmp_path: Path) -> None:
    page = write_study(tmp_path / "deep" / "table3", table, SETUP)
    assert page.name == "index.html"
    assert {path.name for path in page.parent.iterdir()} == FILES
    write_study(page.parent, table, SETUP)  # over the old ones
    assert {path.name for path in page.parent.iterdir()} == FILES


def test_every_run_with_every_measure(table: StudyTable, tmp_path: Path) -> None:
    write_study(tmp_path, table, SETUP)
    rows = read_rows(tmp_path / "runs.csv")
    assert [(row["row"], row["seed"], row["top1"]) for row in rows] == [
        ("baseline", "0", "0.5"),
        ("baseline", "1", "0.6"),
        ("S", "0", "0.6"),
        ("S", "1", "0.8"),
        ("SG", "0", "0.9"),
    ]
    assert (rows[0]["novel"], rows[2]["novel"]) == ("0.125", "")
    assert rows[0]["run"] == "baseline-seed0"


def test_plain_numbers_in_csv_and_json(table: StudyTable, tmp_path: Path) -> None:
    write_study(tmp_path, table, SETUP)
    flat = {row["row"]: row for row in read_rows(tmp_path / "table.csv")}
    content = json.loads((tmp_path / "table.json").read_text("utf-8"))
    rows = {row["row"]: row for row in content["rows"]}
    assert len(flat) == len(rows) == 8
    spatial = rows["S"]["metrics"]["top1"]
    assert (spatial["mean"], spatial["n"]) == (pytest.approx(0.7), 2)
    assert float(flat["S"]["metrics.top1.mean"]) == spatial["mean"]
    assert rows["S"]["comparisons"]["top1"]["baseline"]["difference"] == pytest.approx(0.15)
    assert float(flat["S"]["comparisons.top1.baseline.p_holm"]) == pytest.approx(0.2048, abs=1e-4)
    assert flat["SCG"]["metrics.top1.mean"] == ""
    assert rows["S"]["cost_ratio"]["step_seconds"] == 1.5
    assert rows["S"]["claimed_by_the_paper"] == {"cub resnet50": 0.8561}
    assert content["controls"] == {"on_part": 0.5}
    assert content["runs"][0]["metrics"]["novel"] == 0.125
    assert content["failures"] == [{"row": "SG", "seed": 1, "reason": "ValueError: a <b> & c_d"}]


def test_markdown_and_latex(table: StudyTable, tmp_path: Path) -> None:
    write_study(tmp_path, table, SETUP)
    markdown = (tmp_path / "table.md").read_text("utf-8")
    assert "| spatial | 2 | 70.00 ± 14.14 | *85.61* |" in markdown
    assert "| always the middle of the picture | 50.00 |" in markdown
    assert "- failed: spatial + guidance, seed 1: ValueError: a <b> & c_d" in markdown
    assert "```\nggam study table3 DATA --out STUDIES\n```" in markdown
    latex = (tmp_path / "table.tex").read_text("utf-8")
    assert latex.isascii()
    assert r"spatial & 2 & 70.00 $\pm$ 14.14 & \textit{85.61} \\" in latex
    labels = re.findall(r"\\label{(.*?)}", latex)
    assert labels == ["tab:table3", "tab:table3-1", "tab:table3-2", "tab:table3-3"]


def test_the_page_stands_alone(table: StudyTable, tmp_path: Path) -> None:
    text = write_study(tmp_path, table, SETUP).read_text("utf-8")
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert all(str(image["src"]).startswith("data:image/svg+xml;base64,") for image in tags.images)
    assert all("plain network 55.00 %" in str(image["alt"]) for image in tags.images)
    assert "http" not in text and "<script src" not in text
    assert "my &lt;flowers&gt;" in text and "ValueError: a &lt;b&gt; &amp; c_d" in text
    assert "5 of 8 rows have no finished run" in text
    assert "claimed by the paper, CUB-200-2011, ResNet-50" in text
    assert "Pictures: 50 test, 90 train, 10 val." in text
    assert "<pre>ggam study table3 DATA --out STUDIES</pre>" in text


@pytest.mark.parametrize("study", [make() for make in STUDIES.values()], ids=lambda study: study.name)
@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_every_study_can_be_written_at_any_time(
    study, seeds: int, measured: Measured, tmp_path: Path
) -> None:
    rows = {row.name: [0.5 + 0.01 * seed for seed in range(seeds)] for row in study.rows[:3]}
    page = write_study(tmp_path, build_table(study, measured(rows)), SETUP)
    tags = Tags()
    tags.feed(page.read_text("utf-8"))
    assert tags.open == []
    assert len(tags.images) == (1 if seeds else 0)


def test_backbones_are_named(measured: Measured, tmp_path: Path) -> None:
    study = table2(("ggam",), ("resnet50", "vgg19"))
    text = write_study(tmp_path, build_table(study, measured({"ggam vgg19": [0.5]})), SETUP).read_text(
        "utf-8"
    )
    assert "resnet50, vgg19 at 448 pixels; 1 finished run." in text
    assert "Stanford Cars" in text
