"""`ggam explain` as a user meets it: which maps, of which classes, in which form."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ggam import cli, create_model, load_model, save_model

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    names = ("auk", "booby", "crake")
    torch.manual_seed(0)
    save_model(create_model("test_resnet", class_names=names, pretrained=False, image_size=32), folder)
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "bird.png")
    return tmp_path / "bird.png"


@pytest.fixture
def explain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path) -> Run:
    def call(*arguments: object, run: Path = model) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ggam", "explain", str(run), *map(str, arguments)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        assert isinstance(code, int)
        return code, captured.out, " ".join(captured.err.replace("│", " ").split())

    return call


def shown(folder: Path) -> list[tuple[str, str | None]]:
    (entry,) = json.loads((folder / "explanations.json").read_text("utf-8"))["explained"]
    return [(heat["kind"], heat["class_name"]) for heat in entry["shown"]]


def test_maps_and_classes_are_chosen_by_name(explain: Run, picture: Path, tmp_path: Path) -> None:
    code, out, err = explain(
        picture,
        "--out",
        tmp_path / "o",
        *["--map", "channel", "--map", "gradcam"],
        *["--class", "auk", "--class", "crake"],
    )
    assert (code, err) == (0, "")
    assert "1 panel and raw maps" in out
    found = shown(tmp_path / "o")
    assert found[0] == ("channel", None)
    assert {"auk", "crake"} <= {name for kind, name in found if kind == "gradcam"}
    assert np.load(tmp_path / "o/bird.npy").shape[0] == len(found)


def test_a_pdf_and_the_default_maps(explain: Run, picture: Path, tmp_path: Path) -> None:
    code, _, _ = explain(picture, "--out", tmp_path / "o", "--format", "pdf", "--dpi", 40)
    assert code == 0
    assert (tmp_path / "o/bird.pdf").read_bytes().startswith(b"%PDF")
    assert [kind for kind, _ in shown(tmp_path / "o")] == ["gradcam", "spatial"]


def test_empty_maps_are_counted(explain: Run, model: Path, picture: Path, tmp_path: Path) -> None:
    mute = load_model(model)
    with torch.no_grad():
        mute.get_parameter("classifier.4.weight").zero_()  # no feature speaks for any class
    save_model(mute, tmp_path / "mute")
    asked = ["--class", "auk", "--class", "booby", "--class", "crake"]
    code, out, _ = explain(picture, "--out", tmp_path / "o", *asked, run=tmp_path / "mute")
    assert code == 0
    assert "3 of 4 maps are empty: nothing in the picture speaks for the class" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class", "bobby"], "class 'bobby' is none of the model's 3 classes; did you mean 'booby'?"),
        (
            ["--map", "gradcam", "--map", "heat"],
            "map 'heat': expected gradcam, gradcam-features, spatial, channel",
        ),
        (["--format", "svg"], "svg"),
        (["--dpi", "5"], "dpi=5: expected 30 to 1200"),
        (["--top", "0"], "top=0"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(
    explain: Run, picture: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, _, err = explain(picture, "--out", tmp_path / "o", *arguments)
    assert code == 2
    assert message in err and "Traceback" not in err
    assert not (tmp_path / "o").exists()
