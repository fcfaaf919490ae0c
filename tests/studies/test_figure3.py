"""Figure 3 of a study whose eight networks were never trained: what is chosen, asked, drawn and written."""

import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

import ggam
from ggam import cli
from ggam.data.birds.dataset import synthesize
from ggam.data.records import DataError, readable_names
from ggam.evaluation.accuracy import EvalReport, Prediction
from ggam.evaluation.evaluate import evaluate
from ggam.runs.run import Results, Run
from ggam.studies.definition import table3
from ggam.studies.figure3 import (
    COLUMNS,
    MOST_PICTURES,
    PLACES,
    Cell,
    Figure3,
    Figure3Error,
    Subject,
    disagreements,
    find_networks,
    gather,
)
from ggam.studies.figure3_drawing import draw_figure3
from ggam.studies.figure3_outputs import caption, raw_maps, write_figure3
from ggam.studies.outputs import Setup, write_study
from ggam.studies.records import RunRecord
from ggam.studies.runner import combine
from ggam.studies.table import build_table
from ggam.training.run import RunConfig, build_model

TINY = {"backbone": "test_resnet", "pretrained": False, "image_size": 64, "val_fraction": 0.0}
SEED = 5
HEIGHT = WIDTH = 2  # test_resnet ends at stride 32


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("figure3") / "birds"
    synthesize(root, classes=3, train_per_class=1, test_per_class=3, image_size=96)
    return root


@pytest.fixture(scope="module")
def study(birds: Path) -> Path:
    """A finished `table3` of one seed: untrained networks, measured and written by the real code."""
    out = birds.parent / "study"
    test = ggam.load_dataset(birds, split="test")
    records = []
    for number, row in enumerate(table3().rows):
        recipe = combine(TINY, row, SEED)
        run = out / "runs" / f"run-{number}"
        torch.manual_seed(number)
        model = build_model(recipe, test.class_names).eval()
        report = evaluate(model, test.with_transform(model.config.transform()))
        ggam.save_model(model, run / "model")
        RunConfig(birds, recipe).write(Run(run))
        report.write(Run(run).evaluation("last"))
        Run(run).write_results(Results("none", "last", {"last": {}}, {"test": len(test)}, 1.0))
        records.append(RunRecord(row.name, SEED, run, "none", report.summary(), 1.0, 1, {"test": len(test)}))
    setup = Setup(
        "birds", combine(TINY, table3().rows[0], SEED).to_dict(), "ggam study table3 birds --out study"
    )
    write_study(out / "table3", build_table(table3(), records), setup)
    return out


@pytest.fixture(scope="module")
def content(study: Path) -> Figure3:
    return gather(study, pictures=2)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `ggam figure3`; gives what it says, and its exit code where that is not 0."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["ggam", "figure3", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as stop:
            if stop.code:
                return f"{stop.code}: {capsys.readouterr().err}"
        return capsys.readouterr().out

    return run


def report_of(rows: Sequence[tuple[int, int, float]]) -> EvalReport:
    """From (label, predicted, probability of the label)."""
    predictions = [
        Prediction(f"{number}.png", label, predicted, 0.9, own, 1 if label == predicted else 2)
        for number, (label, predicted, own) in enumerate(rows)
    ]
    return EvalReport(("a", "b", "c"), tuple(predictions), 0.0, uncalibrated_ece=0.0)


def test_the_places_are_the_rows_of_table_3() -> None:
    assert sorted(PLACES) == sorted(row.name for row in table3().rows)
    rows = list(PLACES)
    for plain, guided in zip(rows[::2], rows[1::2], strict=True):
        assert PLACES[plain] == (PLACES[guided][0], "without guidance")
        before, after = (table3().row(name).options for name in (plain, guided))
        assert after["ggam"]["guidance"]
        if plain != "baseline":
            assert before["ggam"] == {**after["ggam"], "guidance": False}


def test_pictures_are_those_on_which_the_networks_are_split() -> None:
    first = report_of([(0, 0, 0.9), (0, 0, 0.6), (1, 1, 0.8), (1, 0, 0.1), (0, 0, 0.4)])
    second = report_of([(0, 0, 0.9), (0, 1, 0.2), (1, 1, 0.8), (1, 0, 0.1), (0, 2, 0.3)])
    # Split are 1 and 4, both of class a, 4 with the lower mean of 0.35; in class b all agree, 3 is less sure.
    assert disagreements([first, second], 1) == [4]
    assert disagreements([first, second], 5) == [4, 3, 1, 2, 0]
    assert disagreements([first, second], 9) == [4, 3, 1, 2, 0]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from([0.1, 0.5])), min_size=1))
def test_no_class_comes_again_before_all_have_come(rows: list[tuple[int, int, float]]) -> None:
    chosen = disagreements([report_of(rows)], len(rows))
    assert sorted(chosen) == list(range(len(rows)))
    labels = [label for label, _, _ in rows]
    classes = len(set(labels))
    assert len({labels[index] for index in chosen[:classes]}) == classes


def test_networks_of_the_first_seed(study: Path) -> None:
    data, seed, runs = find_networks(study)
    assert (data, seed) == ("birds", SEED)
    assert tuple(runs) == tuple(PLACES)
    assert runs["baseline"].folder == study / "runs" / "run-0"


def test_unfinished_studies_are_refused_by_name(study: Path, tmp_path: Path) -> None:
    with pytest.raises(Figure3Error, match=r"holds no result of table3 .*ggam study table3 DATA --out"):
        find_networks(tmp_path)
    with pytest.raises(
        Figure3Error, match=r"seed 6 .*seeds with runs: 5.*go on with: ggam study table3 birds"
    ):
        find_networks(study, 6)
    table = json.loads((study / "table3/table.json").read_text("utf-8"))
    table["runs"] = [run for run in table["runs"] if run["row"] != "SG"]
    file = tmp_path / "table3/table.json"
    file.parent.mkdir()
    file.write_text(json.dumps(table))
    with pytest.raises(Figure3Error, match=r"no finished run with seed 5 of spatial \+ guidance \("):
        find_networks(tmp_path)
    file.write_text("{")
    with pytest.raises(Figure3Error, match=r"table\.json: Expecting property name"):
        find_networks(tmp_path)


def test_every_network_is_asked_about_every_picture(study: Path, birds: Path, content: Figure3) -> None:
    names = readable_names(content.model.class_names)
    _, _, runs = find_networks(study)
    assert len(content.subjects) == len({subject.label for subject in content.subjects}) == 2
    test = ggam.load_dataset(birds, split="test")
    for subject in content.subjects:
        sample = next(s for s in test.samples if (birds / subject.name) == s.path)
        for row, run in runs.items():
            model = run.read_model()
            explanation = ggam.explain(
                model, test.with_transform(model.config.transform()).load(sample)[None]
            )
            cell = subject.cells[row]
            assert cell.predicted == names[int(explanation.classes)]
            assert cell.probability == pytest.approx(float(explanation.logits.softmax(1).max()), abs=1e-5)
            assert cell.right == (cell.predicted == subject.label)
            assert cell.heat is not None and cell.heat.shape == (HEIGHT, WIDTH)
            np.testing.assert_allclose(cell.heat, explanation.maps[0], atol=1e-6)


def test_what_is_known_of_a_picture_lies_in_its_crop(birds: Path, content: Figure3) -> None:
    # 96 pixels; the crop is the 72 in the middle (448/600 of the side, rounded at 64 pixels).
    side = 96 * 64 / round(64 * 600 / 448)
    dataset = ggam.load_dataset(birds, split="test")
    for subject in content.subjects:
        sample = next(s for s in dataset.samples if s.path.as_posix().endswith(subject.name))
        assert sample.box is not None and subject.box is not None
        edges = [
            sample.box.x,
            sample.box.y,
            sample.box.x + sample.box.width,
            sample.box.y + sample.box.height,
        ]
        expected = [min(max((edge - (96 - side) / 2) / side, 0), 1) for edge in edges]
        assert subject.box == pytest.approx(expected)
        assert 0 < len(subject.rings) <= len(dataset.discriminative[sample.label])
        for x, y, radius in subject.rings:
            assert 0 <= x <= 1 and 0 <= y <= 1
            assert radius == pytest.approx(0.1 * max(sample.box.width, sample.box.height) / side)


def test_pictures_by_hand(study: Path, birds: Path, tmp_path: Path) -> None:
    training = sorted((birds / "images").rglob("*train*.jpg"))[0]
    stranger = tmp_path / "folder" / "stranger.png"
    stranger.parent.mkdir()
    Image.new("RGB", (80, 60), "olive").save(stranger)
    found = gather(study, [training, stranger.parent, training])
    assert [subject.split for subject in found.subjects] == ["train", None]
    known, unknown = found.subjects
    assert known.label in readable_names(found.model.class_names) and known.box is not None
    assert (unknown.name, unknown.label, unknown.box, unknown.rings) == ("stranger.png", None, None, ())
    assert {cell.right for cell in unknown.cells.values()} == {None} and unknown.tally == ""
    text = " ".join(caption(found).values())
    assert f"From the training part, so perhaps learnt by heart: {known.name}." in text
    assert "chosen by hand" in text


def test_pictures_by_hand_do_not_need_the_data(study: Path, tmp_path: Path) -> None:
    moved = tmp_path / "study"
    shutil.copytree(study, moved)
    for config in moved.glob("runs/*/config.yaml"):
        config.write_text(
            re.sub("^data: .*$", f"data: {tmp_path}/gone", config.read_text("utf-8"), flags=re.M)
        )
    picture = tmp_path / "one.png"
    Image.new("RGB", (64, 64), "teal").save(picture)
    (subject,) = gather(moved, [picture]).subjects
    assert subject.label is None
    with pytest.raises(DataError, match="gone"):
        gather(moved)


def test_what_cannot_be_drawn(study: Path, tmp_path: Path, content: Figure3) -> None:
    for number in (0, MOST_PICTURES + 1):
        with pytest.raises(Figure3Error, match=f"{number} pictures: expected 1 to {MOST_PICTURES}"):
            gather(study, pictures=number)
    with pytest.raises(DataError, match=r"nowhere\.jpg"):
        gather(study, [tmp_path / "nowhere.jpg"])
    with pytest.raises(Figure3Error, match="dpi 29"):
        write_figure3(tmp_path / "out", content, dpi=29)
    assert not (tmp_path / "out").exists()


def test_other_test_pictures_than_measured_are_refused(study: Path, birds: Path, tmp_path: Path) -> None:
    other = tmp_path / "birds"
    synthesize(other, classes=3, train_per_class=1, test_per_class=2, image_size=48)
    moved = tmp_path / "study"
    shutil.copytree(study, moved)
    config = moved / "runs/run-0/config.yaml"
    config.write_text(re.sub("^data: .*$", f"data: {other}", config.read_text("utf-8"), flags=re.M))
    with pytest.raises(DataError, match="its test pictures are others than those"):
        gather(moved)


def test_networks_without_a_kind_of_map_have_empty_cells(study: Path) -> None:
    found = gather(study, pictures=1, kind="spatial")
    cells = found.subjects[0].cells
    assert {row for row in PLACES if cells[row].heat is not None} == {"S", "SG", "SC", "SCG"}
    (maps,) = np.load(io.BytesIO(raw_maps(found)))["maps"]
    for row, heat in zip(PLACES, maps, strict=True):
        assert np.isnan(heat).all() if "S" not in row else heat.sum() == pytest.approx(1, abs=1e-5)
    drawn = draw_figure3(found, dpi=40)
    texts = [text.get_text() for text in drawn.axes[0].texts]
    assert texts.count("no such map") == 4


def test_cells_in_words_and_pictures() -> None:
    heat = np.array([[0, 1], [0, 0]], dtype=np.float32)
    subject = Subject("a.jpg", None, None, Image.new("RGB", (8, 8), "grey"), None, (), {})
    pixels = np.asarray(subject.picture(16, heat)).astype(int)
    assert pixels.shape == (16, 16, 3)
    assert pixels[0, 15, 0] > 200 and pixels[15, 0].max() < 110, "bright where the heat is, dimmed elsewhere"
    assert np.ptp(np.asarray(subject.picture(16))) == 0, "the picture itself"
    cell = Cell("a", 0.5, None, heat)
    assert cell.peak == "highest at the top right"
    assert cell._replace(heat=np.ones((3, 3))).peak == "highest at the top left"
    assert cell._replace(heat=np.diag([0, 1, 0])).peak == "highest in the middle"
    assert cell._replace(heat=np.zeros((2, 2))).peak == "the map is empty"
    assert cell._replace(heat=None).peak == "no such map"
    assert [cell._replace(right=right).sign for right in (None, True, False)] == ["", "✓", "✗"]


def test_the_grid(content: Figure3) -> None:
    drawn = draw_figure3(content, dpi=40)
    texts = [text.get_text() for text in drawn.axes[0].texts]
    assert texts[:5] == ["picture", *COLUMNS]
    assert texts.count("without guidance") == texts.count("with guidance") == len(content.subjects)
    answers = [text for text in drawn.axes[0].texts if text.get_text()[:1] in "✓✗"]
    drawn.canvas.draw()
    assert max(text.get_window_extent().width for text in answers) * 72 / drawn.dpi < 68, "within its tile"
    right = sum(cell.right or False for subject in content.subjects for cell in subject.cells.values())
    # Each answer has one sign, and the key has both.
    assert sum("✓" in text for text in texts) == right + 1
    assert sum("✗" in text for text in texts) == 16 - right + 1
    assert len(drawn.axes[0].images) == len(content.subjects) * 9 + 1


def test_long_names_are_shortened_and_empty_maps_are_said_to_be(content: Figure3) -> None:
    cell = Cell("a name that is much longer than any tile is wide " * 3, 1.0, False, np.zeros((2, 2)))
    subject = replace(content.subjects[0], cells=dict.fromkeys(PLACES, cell), label="$x_1^")
    texts = [
        text.get_text() for text in draw_figure3(replace(content, subjects=(subject,)), dpi=40).axes[0].texts
    ]
    assert texts.count("map is empty") == 8
    assert sum(text.endswith("…") for text in texts) == 8
    assert "$x_1^" in texts


def test_all_files_and_nothing_else(study: Path, tmp_path: Path, command: Callable[..., str]) -> None:
    said = command(study, "--out", tmp_path / "out", "--dpi", 60, "--pictures", 2)
    assert "of 8 right" in said and "chosen by rule among all 9 test pictures" in " ".join(said.split())
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"figure3.png", "figure3.pdf", "figure3.npz", "figure3.md", "index.html"}
    assert (tmp_path / "out/figure3.pdf").read_bytes().count(b"/FontFile2") >= 1, "TrueType, embedded"
    with Image.open(tmp_path / "out/figure3.png") as image:
        assert image.width == pytest.approx(5.3 * 60, abs=6)
    with np.load(tmp_path / "out/figure3.npz") as arrays:
        assert arrays["maps"].shape == (2, 8, HEIGHT, WIDTH)
        assert tuple(arrays["rows"]) == tuple(PLACES)
        assert arrays["seed"] == SEED
    markdown = (tmp_path / "out/figure3.md").read_text("utf-8")
    assert len(re.findall(r"^\| images/", markdown, re.M)) == 16
    assert "arXiv 2101.09666" in markdown and "gives no number for it" in markdown
    assert str(tmp_path) not in markdown


def test_the_page_stands_alone(content: Figure3, tmp_path: Path) -> None:
    subject = replace(content.subjects[0], label="<b>&")
    page = write_figure3(tmp_path, replace(content, subjects=(subject,)), dpi=30).read_text("utf-8")
    sources = re.findall(r'<img src="(.*?)"', page)
    assert len(sources) == 1 + 1 + 8 and all(source.startswith("data:image/jpeg") for source in sources)
    assert len(re.findall(r'<img [^>]*alt="[^"]+"', page)) == len(sources)
    assert page.count("<rect ") == 9 * 2
    assert "&lt;b&gt;&amp;" in page and "<b>&" not in page
    assert "http" not in page and "<script" not in page


def test_the_command_refuses_in_one_line(tmp_path: Path, study: Path, command: Callable[..., str]) -> None:
    said = command(tmp_path / "nothing")
    assert said.startswith("2: ggam: ") and said.count("\n") == 1
    assert "holds no result of table3" in said
    assert command(study, "--seed", 1).startswith("2: ggam: ")
    assert "gradcam-features" in command(study, "--map", "heat")
