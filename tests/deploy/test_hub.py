"""Publishing and downloading, with the hub's own client and a small hub on this machine."""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
import torch
from huggingface_hub import close_session, constants

from ggam import create_model, explain, from_pretrained, load_model, save_model
from ggam.deploy.hub import FILES, HubError, push_model
from ggam.deploy.model_card import PICTURE_FILE, write_card
from ggam.runs.model_folder import CARD_FILE, CheckpointError

TOKEN = "hf_" + 34 * "x"
COMMIT = 40 * "a"


class Hub(ThreadingHTTPServer):
    """As much of the hub as takes and gives a model."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits = 0


class Answer(BaseHTTPRequestHandler):
    """One request to the hub."""

    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, Hub)
        return self.server

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        parts = path.strip("/").split("/")
        repo_id = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = self.hub.files.get(repo_id, {})
        if self.hub.private.get(repo_id) is None:
            self.answer(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})
        elif "/tree/" in path:
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            self.answer(entries)
        elif parts[0] == "api":
            siblings = [{"rfilename": name} for name in files]
            private = self.hub.private[repo_id]
            self.answer({"id": repo_id, "sha": COMMIT, "private": private, "siblings": siblings})
        else:
            content = files[parts[-1]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.answer(content, headers={"ETag": etag, "X-Repo-Commit": COMMIT})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and "validate-yaml" not in self.path:
            self.answer(b'{"error": "Invalid credentials"}', 401)
            return
        parts = self.path.strip("/").split("/")
        repo_id = "/".join(parts[2:4])
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            existed = name in self.hub.private
            private = wanted.get("private", wanted.get("visibility") == "private")
            self.hub.private.setdefault(name, private)
            self.answer({"url": f"{self.hub.url}/{name}"}, 409 if existed else 200)
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            self.hub.commits += 1
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.hub.files.setdefault(repo_id, {})[line["value"]["path"]] = content
            self.answer({"commitUrl": f"{self.hub.url}/{repo_id}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer({"errors": [], "warnings": []})

    def answer(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
        address = getattr(constants, name).replace("https://huggingface.co", server.url)
        monkeypatch.setattr(constants, name, address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        close_session()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with a card, its picture, and a file that is nobody's business."""
    torch.manual_seed(0)
    model = create_model("test_resnet", class_names=["auk", "crake"], pretrained=False, image_size=32)
    save_model(model, tmp_path / "model")
    write_card(tmp_path / "model", model.config)
    (tmp_path / "model" / PICTURE_FILE).write_bytes(b"a picture")
    (tmp_path / "model/notes.txt").write_text("a password")
    return tmp_path / "model"


def test_there_and_back(hub: Hub, folder: Path) -> None:
    assert push_model(folder, "someone/birds") == f"{hub.url}/someone/birds"
    files = hub.files["someone/birds"]
    assert set(files) == set(FILES) and hub.private == {"someone/birds": True} and hub.commits == 1
    assert 'from_pretrained("someone/birds")' in files[CARD_FILE].decode()
    assert 'from_pretrained("user/name")' in (folder / CARD_FILE).read_text("utf-8")

    images = torch.rand(2, 3, 32, 32)
    wanted = explain(load_model(folder), images).logits
    with pytest.raises(CheckpointError, match="nor a model of the Hugging Face hub that was downloaded"):
        load_model("someone/birds")
    assert torch.equal(explain(from_pretrained("someone/birds"), images).logits, wanted)
    assert torch.equal(explain(from_pretrained("someone/birds", revision=COMMIT), images).logits, wanted)
    assert torch.equal(explain(load_model("someone/birds"), images).logits, wanted)


def test_a_public_model_is_a_choice(hub: Hub, folder: Path) -> None:
    push_model(folder, "someone/birds", public=True)
    assert hub.private == {"someone/birds": False}
    with pytest.raises(HubError, match=r"someone/birds: exists and is public; upload to it with --public"):
        push_model(folder, "someone/birds")
    push_model(folder, "someone/birds", public=True)
    assert hub.private == {"someone/birds": False}


def test_refusals_take_one_line(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="nobody/birds: no such folder, nor to be had from the Hugging"):
        from_pretrained("nobody/birds")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="someone/birds: the hub refused: ") as error:
        push_model(folder, "someone/birds")
    assert "\n" not in str(error.value) and not hub.files
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="nobody is logged in to the hub; run hf auth login, or set HF_TOKEN"):
        push_model(folder, "someone/birds")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE says that this machine is offline"):
        push_model(folder, "someone/birds")


def test_a_hub_that_does_not_answer(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"the upload to http://127\.0\.0\.1:9 failed"):
        push_model(folder, "someone/birds")


@pytest.mark.parametrize("repo_id", ["birds", "a/b/c", "someone/bi rds", "someone/../etc", "", "someone/"])
def test_what_is_no_id(folder: Path, repo_id: str) -> None:
    with pytest.raises(HubError, match="expected user/name or organisation/name"):
        push_model(folder, repo_id)


def test_a_folder_that_is_not_fit_to_be_seen(hub: Hub, folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "id_rsa"
    secret.write_text("secret")
    (folder / PICTURE_FILE).unlink()
    (folder / PICTURE_FILE).symlink_to(secret)
    with pytest.raises(CheckpointError, match=r"heat-maps\.jpg: a link; copy the file into the folder"):
        push_model(folder, "someone/birds")
    (folder / PICTURE_FILE).unlink()
    (folder / CARD_FILE).unlink()
    with pytest.raises(HubError, match="holds no model card; write one with ggam card"):
        push_model(folder, "someone/birds")
    (folder / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="changed after it was saved"):
        push_model(folder, "someone/birds")
    assert not hub.private
