"""`ggam serve` as a process."""

import builtins
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from ggam import cli
from ggam.deploy.serve.server import listen
from serving import encoded, photo

Process = subprocess.Popen[str]


@contextmanager
def command(*arguments: object, env: Mapping[str, str] | None = None) -> Iterator[tuple[Process, str]]:
    """`ggam serve` on a free port: the process and its address."""
    line = [sys.executable, "-m", "ggam.cli", "serve", *map(str, arguments), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, env={**os.environ, **(env or {})}, **pipes) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert "5 classes at http://127.0.0.1:" in said, process.stderr and process.stderr.read()
            yield process, said.split(" at ")[1].split()[0]
        finally:
            process.kill()


def test_it_serves_with_its_options_and_ends_at_sigterm(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(encoded(photo()))
    options = ("--examples", tmp_path, "--max-files", 1, "--device", "cpu", "--threads", 1)
    with command(model_folder, *options, env={"GGAM_TOKEN": "abc"}) as (process, address):
        assert httpx.get(f"{address}/healthz").status_code == 200
        assert httpx.get(f"{address}/model").status_code == 401
        with httpx.Client(base_url=address, headers={"Authorization": "Bearer abc"}) as client:
            model = client.get("/model").json()
            assert (model["limits"]["max_files"], model["examples"]) == (1, {"0": 1})
            answer = client.post("/predict", files={"images": encoded(photo())}, data={"map": "overlay"})
            assert answer.status_code == 200
            form = {"Content-Type": "multipart/form-data; boundary=b"}
            assert client.post("/predict", content=b"noise", headers=form).status_code == 400
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == -signal.SIGTERM
        assert process.stderr is not None
        assert process.stderr.read() == ""
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/healthz")


@pytest.mark.slow
def test_ctrl_c_is_a_good_end(model_folder: Path) -> None:
    with command(model_folder) as (process, address):
        assert httpx.get(f"{address}/readyz").status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
        assert process.stderr is not None and process.stderr.read() == ""


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["ggam", "serve", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "Traceback" not in said
    return said


def test_bad_input_ends_in_one_line(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(monkeypatch, capsys, model_folder, "--port", port)
        assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in said
    for arguments, reason in (
        (["nowhere", "--port", 0], "nowhere: no such folder"),
        ([model_folder, "--port", 70_000], "port 70000: expected"),
        ([model_folder, "--host", "no.such.invalid", "--port", 0], "cannot listen on no.such.invalid"),
        ([model_folder, "--max-bytes", 0], "max_bytes=0"),
        ([model_folder, "--token", " "], "--token: expected"),
        ([model_folder, "--token", "open sesame\n"], "without spaces"),
        ([model_folder, "--port", 0, "--examples", "nowhere"], "nowhere: no such folder; expected example"),
    ):
        assert reason in refused(monkeypatch, capsys, *arguments)


def test_what_is_missing_is_named(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> ModuleType:
        if name.split(".")[0] == "uvicorn":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return real(name, *rest)  # pyright: ignore[reportArgumentType]

    for name in [name for name in sys.modules if name == "ggam.deploy.serve.server"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    said = refused(monkeypatch, capsys, model_folder)
    assert "ggam serve needs more packages (uvicorn): pip install 'ggam[serve]'" in said


def test_answers_leave_at_once() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
