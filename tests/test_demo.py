from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ggam import demo
from ggam.evaluation.measure import evaluator


@contextmanager
def silent(what: str) -> Iterator[Any]:
    yield lambda done, total: None


def run(out: Path) -> Path:
    console = Console(quiet=True)
    return demo.run_demo(out, console, evaluator("fp32", 0), silent, open_page=False)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo in miniature: everything it does, with less of it."""
    monkeypatch.setattr(demo, "CLASSES", 2)
    monkeypatch.setattr(demo, "TRAIN_PER_CLASS", 6)
    monkeypatch.setattr(demo, "TEST_PER_CLASS", 3)
    changes = {"backbone": "test_resnet", "image_size": 64, "epochs": 1, "batch_size": 4, "workers": 0}
    values = demo.recipe() | changes | {"accelerator": "cpu", "precision": "fp32"}
    monkeypatch.setattr(demo, "recipe", lambda: values)


@pytest.mark.usefixtures("small")
def test_the_demo_ends_in_a_page_and_can_be_run_again(tmp_path: Path) -> None:
    page = run(tmp_path / "demo")
    text = page.read_text("utf-8")
    for name in demo.METHODS.values():
        assert name in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert run(tmp_path / "demo") == page


def test_the_demo_leaves_alone_what_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(demo.DemoError, match="choose another folder"):
        run(tmp_path)
    assert (tmp_path / "thesis.tex").exists()
