"""Ctrl-C in a terminal, which reaches every process of a run: the ranks and those that decode for them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FLAGS = (
    "--backbone test_resnet --no-pretrained --image-size 32 --batch-size 6 --workers 1 --accelerator cpu "
    "--precision fp32 --epochs 40"
)


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command line in a process group of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "ggam.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_an_interrupted_command_saves_and_goes_on(squares: Path, tmp_path: Path, devices: int) -> None:
    run = tmp_path / "run"
    command = start("train", squares, "--out", run, *FLAGS.split(), "--devices", devices)
    assert command.stdout is not None
    for line in command.stdout:
        if line.startswith("epoch 3/40"):
            break
    os.killpg(command.pid, signal.SIGINT)
    _, complaints = command.communicate(timeout=60)
    assert command.returncode == 128 + signal.SIGINT, complaints
    assert complaints.count("\n") == 1, complaints
    assert "everything is saved, continue with: ggam train" in complaints

    resumed = start("train", "--out", run, "--resume")
    told, complaints = resumed.communicate(timeout=300)
    assert (resumed.returncode, complaints) == (0, "")
    assert "epoch 40/40" in told and "epoch 2/40" not in told
    assert (run / "report/index.html").is_file()
    assert len((run / "metrics.csv").read_text().splitlines()) == 41
