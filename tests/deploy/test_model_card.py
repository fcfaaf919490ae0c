"""Model cards: what they say is what was measured, the hub can read them, and nobody's words are lost."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from ggam import create_model, load_dataset, save_model
from ggam.data.records import FineGrainedDataset
from ggam.deploy.model_card import (
    PICTURE_FILE,
    Measured,
    example_indices,
    is_edited,
    measured_run,
    render_card,
    write_card,
    write_run_card,
)
from ggam.evaluation.accuracy import EvalReport, Prediction
from ggam.evaluation.evaluate import relative_path
from ggam.methods.base import FineGrainedModel
from ggam.report import ReportError
from ggam.runs.model_folder import CARD_FILE
from ggam.runs.run import Results, Run, RunError

NAMES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def model() -> FineGrainedModel:
    torch.manual_seed(0)
    return create_model("test_resnet", class_names=NAMES, pretrained=False, image_size=32).eval()


@pytest.fixture
def pictures(squares: Path, model: FineGrainedModel) -> FineGrainedDataset:
    return load_dataset(squares, split="test").with_transform(model.config.transform())


def finished_run(
    folder: Path, squares: Path, model: FineGrainedModel, *, seed: int = 0, wrong: int = 3, lr: float = 0.1
) -> Run:
    """A run directory as training leaves it, of which the first `wrong` of 12 answers are one class off."""
    run = Run(folder)
    recipe = {"backbone": "test_resnet", "image_size": 32, "epochs": 5, "lr": lr, "clip": None, "seed": seed}
    places = {"weights": "/home/me/secret/resnet.safetensors", "cache": "/home/me/cache"}
    run.write_config({"data": str(squares), "version": "0.1", "workers": 2, **recipe, **places})
    test = load_dataset(squares, split="test")
    predictions = tuple(
        Prediction(
            relative_path(sample.path, test.root),
            sample.label,
            (sample.label + (index < wrong)) % 3,
            0.9 - index / 100,
            0.05 if index < wrong else 0.9 - index / 100,
            1 + (index < wrong),
        )
        for index, sample in enumerate(test.samples)
    )
    report = EvalReport(NAMES, predictions, 0.5, temperature=1.25, uncalibrated_ece=0.034)
    report.write(run.evaluation("best"))
    protocol = "best epoch chosen on 10% of the training pictures, held out"
    measured = {"epoch": 4, **report.summary()}
    run.write_results(Results(protocol, "best", {"best": measured}, {"train": 33, "val": 3, "test": 12}, 9.5))
    save_model(model, run.model_folder)
    return run


def card_of(run: Run) -> str:
    return run.card.read_text("utf-8")


def test_it_says_what_was_measured(
    tmp_path: Path, squares: Path, model: FineGrainedModel, pictures: FineGrainedDataset
) -> None:
    run = finished_run(tmp_path / "run", squares, model)
    assert write_run_card(run, model, pictures)
    text = card_of(run).replace("\N{WORD JOINER}", "").replace("\N{NO-BREAK SPACE}", " ")
    assert "names **75.0 %** of 12 test pictures" in text
    # Wilson's interval of 9 in 12, from a table: 0.468 to 0.911.
    assert "| Accuracy | **75.0 %** | 46.8–91.1 % |" in text
    # All 3 mistakes are among the 4 pictures of the first class.
    assert "| blue | 4 | 25.0 % |" in text.split("Best recognised")[0]
    assert "| red | 4 | 100.0 % |" in text.split("Best recognised")[1]
    assert "blue with green (3 ×)" in text
    assert "33 pictures for training" in text and "epoch 4 of 5" in text and "held out" in text
    # Of the four surest, 0.90 to 0.87, one is right; of the others, 0.86 to 0.79, all are.
    assert "| Calibration error | 32.8 %, 3.4 % without the temperature | |" in text
    assert "This is one training" in text
    assert "blue, taken for green (90.0 % sure)" in text and "To be filled in" in text
    assert "weights: resnet.safetensors" in text and "workers" not in text and "clip" not in text
    assert "secret" not in text and "/home" not in text and str(squares) not in text
    with Image.open(run.model_folder / PICTURE_FILE) as picture:
        assert picture.size == (4 * 224 + 3 * 8, 2 * 224 + 8)


def test_the_hub_can_read_it(
    tmp_path: Path, squares: Path, model: FineGrainedModel, pictures: FineGrainedDataset
) -> None:
    run = finished_run(tmp_path / "run", squares, model)
    write_run_card(run, model, pictures)
    data: Any = ModelCard.load(run.card).data
    assert data.library_name == "ggam" and data.pipeline_tag == "image-classification"
    assert data.license is None and {"fine-grained", "ggam", "test_resnet"} <= set(data.tags)
    assert [(r.dataset_name, r.dataset_split, r.metric_type, r.metric_value) for r in data.eval_results] == [
        ("squares", "test", "accuracy", 0.75),
        ("squares", "test", "accuracy", 0.75),
    ]


def test_the_lines_it_offers_run(tmp_path: Path, squares: Path, model: FineGrainedModel) -> None:
    save_model(model, tmp_path / "model")
    (code,) = re.findall(r"```python\n(.*?)```", render_card(model.config), flags=re.S)
    picture = next(squares.rglob("*.png"))
    code = code.replace("user/name", str(tmp_path / "model")).replace("picture.jpg", str(picture))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["explanation"].maps.shape[0] == 1


def test_a_model_that_was_not_measured(tmp_path: Path, model: FineGrainedModel) -> None:
    (tmp_path / PICTURE_FILE).write_bytes(b"of an earlier card")
    assert write_card(tmp_path, model.config)
    assert not (tmp_path / PICTURE_FILE).exists(), "it would be published without being mentioned"
    text = (tmp_path / CARD_FILE).read_text("utf-8")
    assert "nothing is\nknown here about how often it is right" in text and "## Accuracy" not in text
    data: Any = ModelCard.load(tmp_path / CARD_FILE).data
    assert data.eval_results is None and data.library_name == "ggam"


def test_an_edited_card_is_kept(
    tmp_path: Path, squares: Path, model: FineGrainedModel, pictures: FineGrainedDataset
) -> None:
    run = finished_run(tmp_path / "run", squares, model)
    folder = run.model_folder
    assert not is_edited(folder)
    assert write_run_card(run, model, pictures) and not is_edited(folder)
    assert write_run_card(run, model, None) and "](heat-maps.jpg)" not in card_of(run)
    assert not (folder / PICTURE_FILE).exists()
    mine = card_of(run).replace("# The licence of this", "license: mit\n# The licence of this")
    (folder / CARD_FILE).write_text(mine, "utf-8")
    assert is_edited(folder)
    assert not write_run_card(run, model, pictures) and not write_card(folder, model.config)
    assert card_of(run) == mine and not (folder / PICTURE_FILE).exists()
    (folder / CARD_FILE).unlink()
    assert write_run_card(run, model, pictures)


@pytest.mark.parametrize("content", [b"", b"my own words", b"\xff\xfe", b"a\n<!-- written by ggam, 00 -->\n"])
def test_a_card_of_somebody_else_is_edited(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CARD_FILE).write_bytes(content)
    assert is_edited(tmp_path)


def test_other_line_ends_are_no_edit(tmp_path: Path, model: FineGrainedModel) -> None:
    write_card(tmp_path, model.config)
    content = (tmp_path / CARD_FILE).read_bytes()
    (tmp_path / CARD_FILE).write_bytes(content.replace(b"\n", b"\r\n"))
    assert not is_edited(tmp_path)


def test_runs_with_other_seeds_are_counted(tmp_path: Path, squares: Path, model: FineGrainedModel) -> None:
    run = finished_run(tmp_path / "a", squares, model, wrong=3)
    assert measured_run(run).seeds is None
    finished_run(tmp_path / "b", squares, model, seed=1, wrong=2)
    finished_run(tmp_path / "c", squares, model, seed=2, wrong=1)
    finished_run(tmp_path / "again", squares, model, seed=2, wrong=4)  # a name before b: it counts
    finished_run(tmp_path / "z", squares, model, seed=3, wrong=0, lr=0.5)
    broken = finished_run(tmp_path / "broken", squares, model, seed=4, wrong=0)
    broken.results_file.write_text("{")
    seeds = measured_run(run).seeds
    assert seeds is not None and seeds.n == 3
    assert seeds.mean == pytest.approx((9 + 8 + 10) / 36)
    text = render_card(model.config, measured_run(run))
    assert "Mean of 3 trainings" in text and "This is one training" not in text


def test_names_are_no_markup(model: FineGrainedModel) -> None:
    names = ("a|b", "<img src=x>", "[x](http://y) *z*\n# w")
    predictions = tuple(Prediction(f"{i}.png", i % 3, (i + 1) % 3, 0.9, 0.1, 2) for i in range(6))
    measured = Measured(
        data="my `data` <b>",
        recipe={"epochs": 1},
        results=Results("none", "last", {"last": {"epoch": 1}}, {"train": 6, "val": 0, "test": 6}, 1.0),
        report=EvalReport(names, predictions, 1.0, uncalibrated_ece=0.9),
        seeds=None,
    )
    text = render_card(replace(model.config, class_names=names), measured)
    body = text.split("---", 2)[2]
    assert "<img" not in body.replace("\\<img", "") and "a\\|b" in body and "\n# w" not in body
    assert "# ggam on my \\`data\\` \\<b\\>" in body
    assert "It names **0.0" in body


def test_the_examples_are_three_right_ones_and_the_worst_mistake() -> None:
    def shown(*predictions: Prediction) -> list[int]:
        return example_indices(EvalReport(NAMES, predictions, 0.1, uncalibrated_ece=0.1))

    predictions = [Prediction(f"{i}.png", 0, 0, 0.9, 0.9, 1) for i in range(9)]
    assert shown(*predictions) == [1, 4, 7]
    predictions[4] = Prediction("4.png", 0, 1, 0.6, 0.2, 2)
    predictions[5] = Prediction("5.png", 0, 1, 0.8, 0.1, 3)
    assert shown(*predictions)[-1] == 5
    assert shown(predictions[0]) == [0]
    assert shown(predictions[4]) == [0]


def test_other_pictures_and_unfinished_runs_are_refused(
    tmp_path: Path, squares: Path, model: FineGrainedModel, pictures: FineGrainedDataset
) -> None:
    run = finished_run(tmp_path / "run", squares, model)
    with pytest.raises(ReportError, match="was evaluated on 12 pictures that are not the 2 of"):
        write_run_card(run, model, pictures.subset([0, 1]))
    run.results_file.unlink()
    with pytest.raises(RunError, match="the run is not finished; continue it with"):
        write_run_card(run, model, pictures)
    assert not run.card.exists()
