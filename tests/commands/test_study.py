"""`ggam study` as a user meets it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import Run

FLAGS = (
    "--backbone test_resnet --no-pretrained --image-size 32 --epochs 1 --batch-size 6 --lr 0.05 "
    "--backbone-lr 0.02 --val-fraction 0 --workers 0 --accelerator cpu --precision fp32"
)
OPTIONS = FLAGS.split()


def test_a_study_from_the_plan_to_the_page(ggam: Run, squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    command = ["study", "table2", squares, "--out", out, "--methods", "ggam", *OPTIONS]
    code, said, _ = ggam(*command, "--seeds", 2, "--dry-run")
    assert code == 0
    assert "4 runs, 0 of them done" in said
    assert not out.exists(), "a dry run does nothing"

    code, said, error = ggam(*command, "--seeds", 1)
    assert (code, error) == (0, "")
    assert "2/2 GGAM, seed 0" in said
    assert str(out / "table2/index.html") in said.replace("\n", "")
    table = json.loads((out / "table2/table.json").read_text())
    assert [row["row"] for row in table["rows"]] == ["baseline", "ggam"]
    for row in table["rows"]:
        assert 0 <= row["metrics"]["top1"]["mean"] <= 1
        assert row["metrics"]["top1"]["std"] is None, "one seed has no spread"
        assert row["cost"]["parameters"] > 0
        assert row["cost"]["step_seconds"] > 0
    assert table["rows"][0]["cost_ratio"]["step_seconds"] == 1
    assert table["command"].startswith(f"ggam study table2 {squares}")
    for name in ("runs.csv", "table.csv", "table.md", "table.tex", "figure.png", "figure.pdf", "index.html"):
        assert (out / "table2" / name).stat().st_size > 0, name

    code, said, _ = ggam(*command, "--seeds", 2, "--dry-run")
    assert "4 runs, 2 of them done" in said
    code, said, _ = ggam(*command, "--seeds", 2)
    assert code == 0
    assert "seed 0" not in said, "a finished run is not repeated"
    assert "3/4 plain network, seed 1" in said
    with (out / "table2/runs.csv").open() as file:
        assert [(row["row"], row["seed"]) for row in csv.DictReader(file)] == [
            ("baseline", "0"),
            ("baseline", "1"),
            ("ggam", "0"),
            ("ggam", "1"),
        ]


@pytest.mark.slow
def test_what_ctrl_c_stops_goes_on_with_the_same_command(ggam: Run, squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    command = ["study", "table2", squares, "--out", out, "--methods", "ggam", "--seeds", 1, *OPTIONS]
    command[command.index("--epochs") + 1] = 12
    pipe, environment = subprocess.PIPE, {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [sys.executable, "-m", "ggam.cli", *map(str, command)]
    with subprocess.Popen(started, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        while process.poll() is None and not list(out.glob("runs/*/checkpoints/last.ckpt")):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, error
    assert "stopped by SIGINT; everything is saved, go on with the same command" in error
    assert not list(out.glob("runs/*/results.json"))
    (metrics,) = out.glob("runs/*/metrics.csv")
    trained = metrics.read_text()
    code, _, error = ggam(*command)
    assert (code, error) == (0, "")
    assert metrics.read_text().startswith(trained)


def test_a_run_that_cannot_be_trained_is_told_at_the_end(ggam: Run, squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    command = ["study", "table2", squares, "--out", out, "--methods", "ggam", "--seeds", 1]
    code, _, error = ggam(*command, *(option.replace("0.05", "1e30") for option in OPTIONS))
    assert code == 1
    assert "ggam, seed 0: TrainingDiverged" in error
    page = (out / "table2/index.html").read_text()
    assert "TrainingDiverged" in page


def test_a_row_that_cannot_be_built_costs_the_others_nothing(
    ggam: Run, squares: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    options = [option.replace("test_resnet", "test_convnext") for option in OPTIONS]
    code, said, error = ggam(
        "study", "table2", squares, "--out", out, "--methods", "cbam", "--seeds", 1, *options
    )
    assert code == 1
    assert "cbam, seed 0: BackboneError" in error
    assert "top-1" in said
    rows = json.loads((out / "table2/table.json").read_text())["rows"]
    assert rows[0]["cost"]["parameters"] > 0
    assert rows[1]["failed"] == 1


def test_the_page_states_the_recipe_of_the_rows(ggam: Run, squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    command = ["study", "table2", squares, "--out", out, "--methods", "ggam", "--seeds", 1, *OPTIONS]
    code, _, _ = ggam(*command, "--ggam.preset", "released")
    assert code == 0
    recipe = json.loads((out / "table2/table.json").read_text())["recipe"]["ggam"]
    assert (recipe["preset"], recipe["target"], recipe["pool"]) == ("released", "softmax", "max")
    assert "pool by the maximum" in (out / "table2/index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table3", "--ggam.guidance-weight", "0"], "rows without guidance"),
        (["table3", "--method", "cbam"], "name their methods"),
        (["table3", "--methods", "ggam"], "belong to table2"),
        (["table2", "--methods", "gam"], "gam"),
        (["table4"], "table4"),
        (["table3", "--seeds", "0"], "at least 1"),
        (["table3", "--devices", "2"], "once for each device"),
        (["table2", "--backbones", "a", "b", "--weights", "w.pth"], "fits one of"),
    ],
)
def test_bad_input_ends_in_one_line(
    ggam: Run, squares: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    name, *rest = arguments
    options = [option for option in OPTIONS if option not in ("--backbone", "test_resnet")]
    code, out, error = ggam("study", name, squares, "--out", tmp_path / "study", *options, *rest)
    assert code in (1, 2)
    assert message in " ".join((out + error).split())
    assert "Traceback" not in error


def test_a_folder_with_other_runs_is_refused(ggam: Run, squares: Path, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study/notes.txt").touch()
    code, _, error = ggam("study", "table3", squares, "--out", tmp_path / "study", *OPTIONS)
    assert code == 2
    assert "no study made it" in error
    assert len(error.splitlines()) == 1
