"""Model folders: bit-equal logits after a round trip, and nothing half written or half read."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from torch import Tensor, nn

from ggam import create_model, explain, from_pretrained, load_model, save_model
from ggam.methods.base import FineGrainedModel
from ggam.runs import model_folder
from ggam.runs.model_folder import CONFIG_FILE, WEIGHTS_FILE, CheckpointError

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def trained(backbone: str | nn.Module = "test_resnet", **options: Any) -> FineGrainedModel:
    torch.manual_seed(0)
    names = {} if "num_classes" in options else {"class_names": ["Kohlmeise", "Blåmes", "蓝山雀"]}
    model = create_model(backbone, pretrained=False, image_size=32, **names, **options).train()
    for _ in range(2):
        model.losses(IMAGES, torch.tensor([0, 1]))
    return model


def small_body() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU())


def logits(model: FineGrainedModel) -> Tensor:
    return explain(model, IMAGES).logits


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("test_resnet", {}),
        ("test_resnet", {"method": "baseline"}),
        ("test_resnet", {"preset": "released", "channel": False, "reduction": 4, "guidance_weight": 5.0}),
        ("resnet10t", {"stage": -2}),
        ("torchvision/squeezenet1_1", {"stage": "features.9"}),
        ("test_vit", {"num_classes": 7}),
    ],
)
def test_round_trip_is_bit_equal(tmp_path: Path, backbone: str, options: dict[str, Any]) -> None:
    model = trained(backbone, **options)
    save_model(model, tmp_path / "models/one")
    loaded = load_model(tmp_path / "models/one")
    assert loaded.config == model.config and type(loaded) is type(model)
    assert loaded.options == model.options and not loaded.training
    assert torch.equal(logits(loaded), logits(model))
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    assert sorted(os.listdir(tmp_path / "models/one")) == [CONFIG_FILE, WEIGHTS_FILE]
    assert os.listdir(tmp_path / "models") == ["one"]


def test_the_folder_can_be_read_by_people(tmp_path: Path) -> None:
    save_model(trained(), tmp_path / "m")
    config = json.loads((tmp_path / "m" / CONFIG_FILE).read_text("utf-8"))
    assert config["format"] == 1 and config["method"] == "ggam" and config["backbone"] == "test_resnet"
    assert config["class_names"] == ["Kohlmeise", "Blåmes", "蓝山雀"] and config["image_size"] == 32
    assert config["options"]["target"] == "standardized" and len(config["mean"]) == 3
    assert "Blåmes" in (tmp_path / "m" / CONFIG_FILE).read_text("utf-8")


def test_the_model_is_not_touched_by_saving(tmp_path: Path) -> None:
    model = trained()
    save_model(model, tmp_path / "m")
    assert model.training


def test_saving_again_replaces_the_model_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    save_model(trained(), folder)
    (folder / "README.md").write_text("a model card")
    model = trained(method="baseline")
    save_model(model, str(folder))
    assert (folder / "README.md").read_text() == "a model card"
    assert torch.equal(logits(load_model(str(folder))), logits(model))


@pytest.mark.parametrize("failing", ["save_file", "json"])
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    first = trained()
    save_model(first, tmp_path / "old")
    with monkeypatch.context() as patch:
        patch.setattr(
            *((model_folder, failing) if failing == "save_file" else (Path, "write_text")), full_disk
        )
        for name in ("old", "new"):
            with pytest.raises(OSError, match="No space left"):
                save_model(trained(method="baseline"), tmp_path / name)
    assert os.listdir(tmp_path) == ["old"]
    assert torch.equal(logits(load_model(tmp_path / "old")), logits(first))


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("mine")
    with pytest.raises(CheckpointError, match="m: a file; expected a folder"):
        save_model(trained(), tmp_path / "m")
    assert (tmp_path / "m").read_text() == "mine"


def test_names_added_by_torch_compile_are_left_out(tmp_path: Path) -> None:
    model = trained()
    wanted = logits(model)
    model.backbone.body = cast(nn.Module, torch.compile(model.backbone.body, backend="eager"))
    assert any("_orig_mod." in key for key in model.state_dict())
    save_model(model, tmp_path / "m")
    assert not any("_orig_mod." in key for key in load_file(tmp_path / "m" / WEIGHTS_FILE))
    assert torch.equal(logits(load_model(tmp_path / "m")), wanted)


def test_a_model_around_a_module_needs_the_module(tmp_path: Path) -> None:
    model = trained(small_body())
    save_model(model, tmp_path / "m")
    with pytest.raises(CheckpointError, match="pass it as backbone="):
        load_model(tmp_path / "m")
    assert torch.equal(logits(load_model(tmp_path / "m", backbone=small_body())), logits(model))
    wrong = nn.Sequential(nn.Conv2d(3, 9, 3, stride=4), nn.BatchNorm2d(9))
    with pytest.raises(CheckpointError, match=r"does not fit config\.json: .*size mismatch"):
        load_model(tmp_path / "m", backbone=wrong)


def test_a_model_from_a_name_takes_no_module(tmp_path: Path) -> None:
    save_model(trained(), tmp_path / "m")
    with pytest.raises(CheckpointError, match="made from the backbone 'test_resnet'; leave out backbone="):
        load_model(tmp_path / "m", backbone=small_body())


def test_parameters_that_share_memory_are_saved(tmp_path: Path) -> None:
    body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1))
    body[1].weight = body[0].weight
    model = trained(body)
    save_model(model, tmp_path / "m")
    again = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1))
    assert torch.equal(logits(load_model(tmp_path / "m", backbone=again)), logits(model))


def test_the_saved_preprocessing_counts(tmp_path: Path) -> None:
    """Whatever timm says of the name by then."""
    save_model(trained(), tmp_path / "m")
    edit(tmp_path / "m", mean=[0.1, 0.2, 0.3])
    loaded = load_model(tmp_path / "m")
    assert loaded.config.mean == loaded.backbone.mean == (0.1, 0.2, 0.3)


def edit(folder: Path, **values: Any) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
    (folder / CONFIG_FILE).write_text(json.dumps({**config, **values}), "utf-8")


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_changed_tensor_is_refused(tmp_path: Path) -> None:
    """A file that safetensors reads without complaint, one number in it moved by one bit."""
    folder = tmp_path / "m"
    save_model(trained(), folder)
    config = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    assert config["sha256"] == hashlib.sha256(content).hexdigest()
    content[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(content)
    load_file(folder / WEIGHTS_FILE)
    with pytest.raises(
        CheckpointError, match=r"m/model\.safetensors: damaged, or changed after it was saved"
    ):
        load_model(folder)
    save_model(trained(), folder)
    load_model(folder)


def test_a_folder_from_before_checksums_is_read(tmp_path: Path) -> None:
    model = trained()
    save_model(model, tmp_path / "m")
    file = tmp_path / "m" / CONFIG_FILE
    config = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({key: value for key, value in config.items() if key != "sha256"}))
    assert torch.equal(logits(load_model(tmp_path / "m")), logits(model))


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    save_model(trained(), tmp_path / "m")
    os.replace(tmp_path / "m" / name, tmp_path / name)
    (tmp_path / "m" / name).symlink_to(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"m/{name}: a link to outside of the folder"):
        load_model(tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    os.replace(tmp_path / name, tmp_path / "m" / "elsewhere")
    (tmp_path / "m" / name).symlink_to("elsewhere")
    (tmp_path / "latest").symlink_to("m")
    load_model(tmp_path / "latest")


@pytest.mark.parametrize(
    "values",
    [
        {"options": {"weights": "/etc/passwd"}},
        {"options": {"pretrained": True}},
        {"backbone": "local-dir:/etc"},
        {"backbone": "hf-hub:someone/else"},
        {"backbone": "torchvision/../../evil"},
    ],
)
def test_no_value_is_taken_for_a_place(tmp_path: Path, values: dict[str, Any]) -> None:
    save_model(trained(), tmp_path / "m")
    edit(tmp_path / "m", **values)
    with pytest.raises(CheckpointError, match="damaged model folder") as error:
        load_model(tmp_path / "m")
    assert "expected .safetensors" not in str(error.value)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, "pytorch_model.bin", "model.ckpt"])
def test_nothing_is_unpickled(tmp_path: Path, name: str) -> None:
    save_model(trained(), tmp_path / "m")
    (tmp_path / "m" / WEIGHTS_FILE).unlink()
    bomb = tmp_path / "m" / name
    bomb.write_bytes(pickle.dumps(Bomb(tmp_path / "unpickled")))
    edit(tmp_path / "m", sha256=digest(bomb))
    with pytest.raises(CheckpointError):
        load_model(tmp_path / "m")
    assert not (tmp_path / "unpickled").exists()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    save_model(trained(), tmp_path / "m")
    edit(tmp_path / "m", format=2, ggam="9.1")
    with pytest.raises(
        CheckpointError, match=r"written by ggam 9\.1, a newer version.*pip install --upgrade"
    ):
        load_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (WEIGHTS_FILE, b"", "safetensors: damaged, or changed"),
        (WEIGHTS_FILE, b"half a file", "safetensors: damaged, or changed"),
        (WEIGHTS_FILE, None, "safetensors: cannot be read"),
        (CONFIG_FILE, None, "config.json: cannot be read"),
        (CONFIG_FILE, b'{"format": 1, ', "config.json: cannot be read"),
        (CONFIG_FILE, b"\xff\xfe", "config.json: cannot be read"),
        (CONFIG_FILE, b"[]", "not a model configuration of ggam"),
        (CONFIG_FILE, b'{"model_type": "bert"}', "not a model configuration of ggam"),
        (CONFIG_FILE, b'{"format": 1}', "damaged model folder .KeyError: 'backbone'"),
    ],
)
def test_damaged_folders_are_named(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    save_model(trained(), tmp_path / "m")
    (tmp_path / "m" / file).unlink() if content is None else (tmp_path / "m" / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(tmp_path / "m")
    assert str(tmp_path / "m") in str(error.value)


@pytest.mark.parametrize(
    "values",
    [{"method": "nope"}, {"options": None}, {"options": {"nope": 1}}, {"backbone": "nope"}, {"mean": None}],
)
def test_nonsense_in_the_configuration_is_a_checkpoint_error(tmp_path: Path, values: dict[str, Any]) -> None:
    save_model(trained(), tmp_path / "m")
    edit(tmp_path / "m", **values)
    with pytest.raises(CheckpointError, match="damaged model folder"):
        load_model(tmp_path / "m")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_model(trained(), tmp_path / "m")
    save_model(trained(method="baseline"), tmp_path / "other")
    os.replace(tmp_path / "other" / WEIGHTS_FILE, tmp_path / "m" / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=r"not the weights that config\.json was written for"):
        load_model(tmp_path / "m")
    edit(tmp_path / "m", sha256=digest(tmp_path / "m" / WEIGHTS_FILE))
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not fit config\.json: .*Missing key"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("source", ["absent", "./runs/absent", "/absent/model", "a/b/c", Path("runs/absent")])
def test_a_missing_folder_is_no_hub_id(source: str | Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder; expected a folder that holds"):
        load_model(source)


def test_naming_a_hub_model_downloads_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a mistyped folder, `runs/mine`, would."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    message = (
        r'runs/mine: no such folder, nor a model .* downloaded before.*ggam\.from_pretrained\("runs/mine"\)'
    )
    with pytest.raises(CheckpointError, match=message):
        load_model("runs/mine")


def test_a_hub_id_without_network_fails_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    message = "someone/birds: no such folder, nor to be had from the Hugging"
    with pytest.raises(CheckpointError, match=message) as error:
        from_pretrained("someone/birds")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("load", [load_model, from_pretrained])
def test_a_downloaded_hub_model_needs_no_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, load: Callable[[str], FineGrainedModel]
) -> None:
    """In the cache the files of a revision are links to where all revisions keep them."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--someone--birds"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("abc")
    model = trained()
    save_model(model, folder / "snapshots/abc")
    (folder / "blobs").mkdir()
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        os.replace(folder / "snapshots/abc" / name, folder / "blobs" / name)
        (folder / "snapshots/abc" / name).symlink_to(Path("../../blobs", name))
    assert torch.equal(logits(load("someone/birds")), logits(model))


def test_a_folder_is_as_good_as_a_hub_id(tmp_path: Path) -> None:
    model = trained()
    save_model(model, tmp_path / "m")
    assert torch.equal(logits(from_pretrained(tmp_path / "m")), logits(model))
    with pytest.raises(CheckpointError, match=r"m: a folder; a revision \('v1'\) is for models on the hub"):
        from_pretrained(tmp_path / "m", revision="v1")
    with pytest.raises(CheckpointError, match="absent: no such folder; expected a folder that holds"):
        from_pretrained("absent")
