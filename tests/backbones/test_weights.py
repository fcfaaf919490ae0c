"""Weights files of every kind, how they must fit, and what happens without a network."""

import http.server
import os
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from ggam import create_model, save_model
from ggam.backbones import weights as weights_module
from ggam.backbones.build import create_backbone
from ggam.backbones.weights import BackboneError, misfits, plain_key, reachable, read_state, require_download

TIMM = "test_resnet"  # timm's own test network: 370 thousand parameters
TORCHVISION = "torchvision/squeezenet1_1"


def full_state(num_classes: int = 1000) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return dict(timm.create_model(TIMM, num_classes=num_classes).state_dict())


def body_of(file: Path, **options: Any) -> nn.Module:
    return create_backbone(TIMM, weights=file, image_size=32, **options).body


def assert_loaded(body: nn.Module, state: dict[str, Tensor]) -> None:
    loaded = {name.removeprefix("model."): value for name, value in body.state_dict().items()}
    assert loaded and all(torch.equal(value, state[name]) for name, value in loaded.items())


@pytest.mark.parametrize("nesting", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_state_dicts_of_every_wrapping(tmp_path: Path, nesting: str | None, prefix: str) -> None:
    file = tmp_path / "weights.pth"
    state = {"conv.weight": torch.ones(2), "conv.bias": torch.zeros(1)}
    wrapped: Any = {prefix + name: value for name, value in state.items()}
    torch.save({nesting: wrapped, "epoch": 3} if nesting else wrapped, file)
    found = read_state(file)
    assert found.keys() == state.keys() and torch.equal(found["conv.weight"], state["conv.weight"])


def test_a_compiled_child_in_the_middle_of_a_name() -> None:
    assert plain_key("module.backbone._orig_mod.conv.weight") == "backbone.conv.weight"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_a_file_fits_and_its_classifier_of_another_size_is_dropped(tmp_path: Path, suffix: str) -> None:
    state, file = full_state(num_classes=7), tmp_path / f"weights{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    assert_loaded(body_of(file), state)


def test_layers_behind_the_stage_may_be_in_the_file(tmp_path: Path) -> None:
    state, file = full_state(), tmp_path / "weights.safetensors"
    save_file(state, file)
    body = body_of(file, stage=-2)
    assert_loaded(body, state)
    assert not any("layer4" in name for name in body.state_dict())


def test_half_precision_weights_come_up_to_the_models(tmp_path: Path) -> None:
    state, file = full_state(), tmp_path / "weights.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, file)
    body = body_of(file)
    assert all(parameter.dtype == torch.float32 for parameter in body.parameters())


def test_old_files_without_batch_counters_load(tmp_path: Path) -> None:
    state, file = full_state(), tmp_path / "weights.pth"
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, file)
    assert_loaded(body_of(file), {k: v for k, v in state.items()})


def test_torchvision_takes_its_own_files(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.get_model("squeezenet1_1", num_classes=5)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    body = create_backbone(TORCHVISION, weights=tmp_path / "weights.pth", image_size=64).body
    assert_loaded(body, dict(model.state_dict()))


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    state, file = full_state(), tmp_path / "weights.safetensors"
    state["bn1.weight"] = torch.ones(3)
    state["surprise"] = torch.ones(1)
    del state["conv1.0.weight"]
    save_file(state, file)
    with pytest.raises(BackboneError) as error:
        body_of(file)
    message = str(error.value)
    assert str(file) in message and "\n" not in message
    for part in (
        "missing keys: conv1.0.weight",
        "unknown keys: surprise",
        "bn1.weight is (3,), expected (32,)",
    ):
        assert part in message


def test_long_lists_are_cut_short() -> None:
    model = nn.Linear(1, 1)
    state = {
        "weight": torch.zeros(1, 1),
        "bias": torch.zeros(1),
        **{f"x{i}": torch.zeros(1) for i in range(20)},
    }
    assert misfits(model, state, ()).endswith("x15 and 12 more")
    assert misfits(model, state, [f"x{i}" for i in range(20)]) == ""


def test_the_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit", img_size=32).state_dict(), file)
    with pytest.raises(BackboneError, match=r"missing keys: .*unknown keys: "):
        body_of(file)


def test_position_tables_are_resized_as_timm_does(tmp_path: Path) -> None:
    file = tmp_path / "vit.safetensors"
    state = {k: v.clone() for k, v in timm.create_model("test_vit", img_size=64).state_dict().items()}
    state["pos_embed"][:] = 0.25
    save_file(state, file)
    body: Any = create_backbone("test_vit", weights=file, image_size=96).body
    assert body.model.pos_embed.shape[1] > state["pos_embed"].shape[1]
    torch.testing.assert_close(body.model.pos_embed, torch.full_like(body.model.pos_embed, 0.25))
    assert torch.equal(body.model.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])


def test_a_whole_model_of_ours_is_told_from_a_backbone(tmp_path: Path) -> None:
    model = create_model(TIMM, 2, pretrained=False, image_size=32)
    save_model(model, tmp_path / "model")
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "run.ckpt")
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "lightning.ckpt")
    for name in ("model", "model/model.safetensors", "run.ckpt", "lightning.ckpt"):
        with pytest.raises(BackboneError, match=r"whole model of ggam .*expected the weights of a") as error:
            body_of(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value) and len(str(error.value)) < 250 + len(str(tmp_path))


def test_a_folder_with_weights_stands_for_its_file(tmp_path: Path) -> None:
    save_file(full_state(), tmp_path / "model.safetensors")
    assert_loaded(body_of(tmp_path), full_state())
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"model\.safetensors: no such file"):
        body_of(tmp_path)


class Bomb:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.file),)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    target = tmp_path / "was-here"
    for name, write in (
        ("new.pth", lambda file: torch.save({"a": Bomb(target)}, file)),
        ("old.pth", lambda file: file.write_bytes(pickle.dumps({"a": Bomb(target)}))),
    ):
        write(tmp_path / name)
        with pytest.raises(BackboneError, match="cannot be read") as error:
            read_state(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)
        assert not target.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 half a zip"])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    with pytest.raises(BackboneError, match="cannot be read") as error:
        read_state(file)
    assert file.name in str(error.value)


@pytest.mark.parametrize("content", [[torch.ones(1)], {"a": 1}, {0: torch.ones(1)}, torch.ones(2)])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(BackboneError, match="expected a state dict, names to tensors"):
        read_state(tmp_path / "weights.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"absent\.pth: no such file; expected \.safetensors"):
        create_backbone(TIMM, weights=tmp_path / "absent.pth")


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with a network, but only for addresses on this machine."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(weights_module, "_CONNECT_SECONDS", 0.3)


@pytest.fixture
def server() -> Iterator[str]:
    """A web server that answers 404 to everything."""

    class NotFound(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), NotFound) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


@pytest.mark.usefixtures("online")
def test_any_answer_counts_as_a_network(server: str) -> None:
    assert reachable(server)
    require_download("resnet50", server)


@pytest.mark.usefixtures("online")
def test_no_answer_is_known_soon(closed_port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        assert not reachable(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert not reachable(closed_port)
        assert not reachable("no address")
        assert time.monotonic() - start < 3


def test_offline_means_not_even_asking(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not reachable(server)


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("name", ["resnet50", "swin_tiny_patch4_window7_224.ms_in1k"])
def test_pretrained_without_network_fails_at_once(
    name: str, closed_port: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", closed_port)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(BackboneError, match=r"127\.0\.0\.1 cannot be reached: pass a file with --weights"):
        create_backbone(name)
    assert time.monotonic() - start < 4


def test_torchvision_offline_fails_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(BackboneError, match="'torchvision/resnet50' are not on this machine"):
        create_backbone("torchvision/resnet50")


def test_downloaded_timm_weights_need_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = timm.get_pretrained_cfg(TIMM)
    assert config is not None and config.hf_hub_id
    folder = tmp_path / f"models--{config.hf_hub_id.replace('/', '--')}"
    for name in ("refs", "snapshots/abc"):
        (folder / name).mkdir(parents=True)
    (folder / "refs/main").write_text("abc")
    state = full_state()
    save_file(state, folder / "snapshots/abc/model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_loaded(create_backbone(TIMM, image_size=32).body, state)


def test_downloaded_torchvision_weights_need_no_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    state = torchvision.models.squeezenet1_1().state_dict()
    url = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.url
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "hub/checkpoints" / url.rsplit("/", 1)[1])
    assert_loaded(create_backbone(TORCHVISION, image_size=64).body, state)


def test_a_network_without_published_weights_says_so() -> None:
    bare = next(
        name for name in timm.list_models("resnet*") if not timm.list_pretrained(name) and timm.is_model(name)
    )
    with pytest.raises(BackboneError, match="timm has no pre-trained weights for it"):
        create_backbone(bare)
