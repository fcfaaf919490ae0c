"""What every test may use: small data sets made on the spot, a browser, and no network."""

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator

# Before torch and the hub client are imported: two cores, and no address to ask for weights.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

# Before torchvision, which it makes importable beside a CPU-only torch.
importlib.import_module("ggam")

# How long an example takes depends on what else the machine does.
settings.register_profile("ggam", deadline=None)
settings.load_profile("ggam")

Run = Callable[..., tuple[int, str, str]]
LONGEST = ("test_every_method.py", "test_contract.py", "test_runner.py", "test_export.py", "test_run.py")
"""Files that take longest: they start first, so that no worker is left alone with one at the end."""
COLOURS = {"red": (200, 40, 40), "green": (40, 170, 60), "blue": (50, 60, 200)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def write_class_folders(root: Path, *, train: int, test: int, size: int = 40) -> Path:
    """Class folders of noisy one-coloured squares: easy to learn, quick to read."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                noise = rng.normal(0, 40, (size, size, 3))
                pixels = (np.asarray(colour) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of coloured squares: 12 training and 4 test pictures each."""
    return write_class_folders(tmp_path_factory.mktemp("data") / "squares", train=12, test=4)


@pytest.fixture
def ggam(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ggam", *map(str, arguments)])
        code = 0
        try:
            importlib.import_module("ggam.cli").main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")  # while it is open, no test can run an event loop of its own
def browser() -> Iterator[Browser]:
    """Chromium as the system has it, which asks nobody for anything."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    quiet = (
        "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync"
    )
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=quiet.split())
        yield launched
        launched.close()
