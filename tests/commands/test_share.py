"""`ggam card` and `ggam push`, up to the hub."""

import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from ggam import cli, create_model, save_model
from ggam.runs.model_folder import CARD_FILE


def ggam(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["ggam", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = create_model("test_resnet", class_names=["auk", "crake"], pretrained=False, image_size=32)
    save_model(model, tmp_path / "model")
    return tmp_path / "model"


def test_card(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert ggam(monkeypatch, "card", folder) == 0
    assert "the licence is yours to fill in" in " ".join(capsys.readouterr().out.split())
    with (folder / CARD_FILE).open("a") as card:
        card.write("My own words.\n")
    assert ggam(monkeypatch, "card", folder) == 0
    assert "was edited and is kept; remove it" in " ".join(capsys.readouterr().out.split())
    assert (folder / CARD_FILE).read_text("utf-8").endswith("My own words.\n")
    assert ggam(monkeypatch, "card", folder / "absent") == 2
    assert "no such folder" in capsys.readouterr().err


def test_push_needs_no_less_than_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    assert ggam(monkeypatch, "push", folder, "someone/birds") == 2  # the tests are offline
    assert "HF_HUB_OFFLINE says that this machine is offline" in capsys.readouterr().err
    assert (folder / CARD_FILE).is_file()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert ggam(monkeypatch, "push", folder, "someone/birds") == 2
    error = capsys.readouterr().err
    assert (
        error == "ggam: someone/birds: nobody is logged in to the hub; run hf auth login, or set HF_TOKEN\n"
    )
    assert ggam(monkeypatch, "push", folder, "birds") == 2
    assert "expected user/name or organisation/name" in capsys.readouterr().err
