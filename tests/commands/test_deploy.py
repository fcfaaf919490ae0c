"""`ggam export` and `ggam predict` on a run that was really trained, and what it says of calibration."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import write_class_folders
from ggam import cli
from ggam.evaluation.measure import evaluator
from ggam.runs.model_folder import load_model
from ggam.runs.run import Run as RunDirectory
from ggam.training.recipe import Recipe
from ggam.training.run import RunConfig, fit

Run = Callable[..., tuple[int, str, str]]
RECIPE = {
    "backbone": "test_resnet",
    "pretrained": False,
    "image_size": 32,
    "epochs": 1,
    "batch_size": 6,
    "lr": 0.002,  # too little to learn all, so that there is something to calibrate
    "backbone_lr": 0.002,
    "workers": 0,
    "accelerator": "cpu",
    "precision": "fp32",
    "val_fraction": 0.3,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("deploy")
    data = write_class_folders(root / "data", train=12, test=4)
    config, measure = RunConfig(data, Recipe.from_dict(RECIPE)), evaluator("fp32", 0, accelerator="cpu")
    fit(config, RunDirectory(root / "run"), measure)
    return root / "run"


@pytest.fixture
def ggam(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ggam", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        captured = capsys.readouterr()
        return code, " ".join(captured.out.split()), captured.err

    return run


def test_training_fits_a_temperature_and_says_what_it_changes(trained: Path) -> None:
    results = json.loads((trained / "results.json").read_text())
    chosen = results[results["selected"]]
    model = load_model(trained / "model")
    assert model.config.temperature == pytest.approx(chosen["temperature"])
    assert model.config.temperature > 0 and model.config.temperature != 1
    assert 0 <= chosen["ece"] <= 1
    assert 0 <= chosen["ece_uncalibrated"] <= 1
    assert chosen["ece"] != chosen["ece_uncalibrated"]


def test_export_then_predict_says_what_evaluate_said(ggam: Run, trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    code, out, err = ggam("export", trained, "--out", file)
    assert (code, err) == (0, "")
    assert "compared with PyTorch on 8 test pictures" in out
    assert "MB" in out and "ms per picture" in out
    code, out, err = ggam(
        "predict", file, trained.parent / "data/test", "--out", tmp_path / "p.csv", "--workers", 0
    )
    assert (code, err) == (0, "")
    assert "12 pictures predicted" in out
    chosen = json.loads((trained / "results.json").read_text())["selected"]
    with (trained / "evaluation" / chosen / "predictions.csv").open(newline="") as evaluated:
        expected = {
            Path(row["path"]).parts[-2:]: (row["predicted_name"], float(row["probability"]))
            for row in csv.DictReader(evaluated)
        }
    with (tmp_path / "p.csv").open(newline="") as predicted:
        found = {
            Path(row["path"]).parts[-2:]: (row["class_1"], float(row["probability_1"]))
            for row in csv.DictReader(predicted)
        }
    assert found.keys() == expected.keys()
    for picture, (name, probability) in found.items():
        assert name == expected[picture][0]
        assert probability == pytest.approx(expected[picture][1], abs=1e-4)

    code, out, _ = ggam("predict", file, trained.parent / "data/test", "--out", tmp_path / "p.csv")
    assert "0 pictures predicted, 12 were there already" in out
    code, _, err = ggam("predict", trained, trained.parent / "data/test", "--out", tmp_path / "p.csv")
    assert code == 2
    assert "another model" in err
    code, _, err = ggam("export", trained, "--out", file)
    assert (code, "is there already" in err) == (2, True)


def test_export_without_the_data_compares_generated_pictures(
    ggam: Run, trained: Path, tmp_path: Path
) -> None:
    out_file = tmp_path / "m.pt2"
    code, out, err = ggam("export", trained / "model", "--out", out_file, "--format", "torch", "--no-map")
    assert (code, err) == (0, "")
    assert "on 4 generated pictures" in out and "no heat map" in out


def test_unreadable_pictures_are_named_and_the_code_is_1(ggam: Run, trained: Path, tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"{number}.jpg").write_bytes(b"no")
    picture = trained.parent / "data/test/red/0.png"
    out_file = tmp_path / "p.jsonl"
    code, out, err = ggam("predict", trained, picture, tmp_path, "--out", out_file, "--workers", 0)
    assert code == 1
    assert "1 picture predicted" in out
    assert err.count("cannot be read as a picture") == 20
    assert "and 5 more; all that cannot be read:" in err
    assert len((tmp_path / "p.jsonl.unreadable.csv").read_text().splitlines()) == 26


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "nowhere", "--out", "m.onnx"], "nowhere: no such folder"),
        (["export", "RUN", "--out", "m.txt"], "expected a name that ends in .onnx"),
        (["export", "RUN", "--out", "m.onnx", "--image-size", "0"], "image_size=0: expected pixels"),
        (["predict", "nowhere.onnx", "PICTURES", "--out", "p.csv"], "nowhere.onnx: no such file"),
        (["predict", "RUN", "no/such", "--out", "p.csv"], "no/such: no such file or folder"),
        (["predict", "RUN", "PICTURES", "--out", "p.txt"], "expected a name that ends in .csv, .jsonl"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(
    ggam: Run,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"RUN": str(trained), "PICTURES": str(trained.parent / "data/test")}
    code, _, err = ggam(*(places.get(argument, argument) for argument in arguments))
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
