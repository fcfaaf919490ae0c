"""Model folders: `model.safetensors` beside `config.json`, written whole or not at all.

A folder may come from strangers. Nothing in it is run or unpickled, no value of its configuration is
taken for a path, and the weights must be those that were saved with the configuration.
"""

import json
import math
import os
import tempfile
from dataclasses import replace
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ggam._version import __version__
from ggam.backbones.weights import plain_key, reachable
from ggam.methods.base import FineGrainedModel
from ggam.methods.registry import create_model

FORMAT = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
_EXPECTED = f"expected a folder that holds {CONFIG_FILE} and {WEIGHTS_FILE}"


class CheckpointError(ValueError):
    """A model folder that is missing, damaged, or from a newer version."""


def save_model(model: FineGrainedModel, directory: Path | str) -> None:
    """Write a model folder, replacing the model in one that is there.

    The folder holds the weights (without what DDP or torch.compile add to their names), how the
    model was made, its class names and its preprocessing. Other files in it are left alone.

    Raises:
        CheckpointError: if `directory` is a file.
        OSError: if it cannot be written; what was there before is still there then.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory}: a file; expected a folder, or a name for a new one")
    directory.parent.mkdir(parents=True, exist_ok=True)
    state = {
        # A clone, because safetensors refuses parameters that share memory.
        plain_key(key): value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in model.state_dict().items()
    }
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as temporary:
        fresh = Path(temporary, "fresh")
        fresh.mkdir()
        save_file(state, fresh / WEIGHTS_FILE)
        (fresh / WEIGHTS_FILE).chmod(0o644)
        config = {
            "format": FORMAT,
            "ggam": __version__,
            "sha256": _digest(fresh / WEIGHTS_FILE),
            **model.config.to_dict(),
        }
        (fresh / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
        if directory.is_dir():
            for name in (WEIGHTS_FILE, CONFIG_FILE):
                os.replace(fresh / name, directory / name)
        else:
            os.replace(fresh, directory)


def load_model(source: Path | str, *, backbone: nn.Module | None = None) -> FineGrainedModel:
    """Read a model folder, in eval mode; nothing is downloaded.

    Args:
        source: a folder written by `save_model`, or the hub id (`user/name`) of a model that
            `from_pretrained` has downloaded before.
        backbone: the backbone module, for a model that was made around one instead of a name.

    Raises:
        CheckpointError: if the folder is missing, damaged, or written by a newer version, if its weights
            are not those that were saved, or if `backbone` is missing or given for a model that was
            made from a name.
    """
    directory = _folder(source)
    if directory is None:
        try:
            directory = _snapshot(str(source), None, download=False)
        except (OSError, ValueError) as error:  # the hub's errors are of these two kinds
            raise CheckpointError(
                f"{source}: no such folder, nor a model of the Hugging Face hub that was downloaded before; "
                f'{_EXPECTED}, or run ggam.from_pretrained("{source}") once'
            ) from error
    return _read_model(directory, backbone)


def from_pretrained(
    source: Path | str, *, revision: str | None = None, backbone: nn.Module | None = None
) -> FineGrainedModel:
    """Read a model from the Hugging Face hub, or from a folder, in eval mode.

    What the hub has changed is downloaded into its cache; without a network, or with `HF_HUB_OFFLINE=1`,
    the cache is used as it is. A private model needs a login, `hf auth login`.

    Args:
        source: a hub id (`user/name`), or a folder as for `load_model`; a folder of that name is
            preferred.
        revision: a branch, a tag, or the hash of a commit of the hub's; default: the newest.
        backbone: as for `load_model`.

    Raises:
        CheckpointError: as `load_model` says, or if the hub has no such model and the cache neither.
    """
    directory = _folder(source)
    if directory is not None and revision is not None:
        raise CheckpointError(f"{source}: a folder; a revision ({revision!r}) is for models on the hub")
    if directory is None:
        try:
            directory = _snapshot(str(source), revision, download=reachable(constants.ENDPOINT))
        except Exception as error:  # those of the hub's HTTP client have no common base
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{source}: no such folder, nor to be had from the Hugging Face hub ({reason}); {_EXPECTED}, "
                "or the id of a model on the hub"
            ) from error
    return _read_model(directory, backbone)


def read_config(directory: Path) -> dict[str, Any]:
    """What `config.json` of a model folder holds, once its weights are known to be those it was saved with.

    Raises:
        CheckpointError: if a file is missing, damaged, from a newer version, or a link out of the folder,
            or if the weights were changed.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        _require_inside(directory, name)
    config = _parse_config(directory)
    wanted = config.get("sha256")  # missing in folders from before it was recorded
    weights = directory / WEIGHTS_FILE
    try:
        changed = wanted is not None and _digest(weights) != wanted
    except OSError as error:
        raise CheckpointError(
            f"{weights}: cannot be read ({error.strerror}); save the model again"
        ) from error
    if changed:
        raise CheckpointError(
            f"{weights}: damaged, or changed after it was saved: not the weights that {CONFIG_FILE} was "
            "written for (sha256 differs); get the folder again, or if the change was meant, load the "
            "weights into a model yourself and save that with ggam.save_model"
        )
    return config


def _read_model(directory: Path, backbone: nn.Module | None) -> FineGrainedModel:
    config = read_config(directory)
    try:
        model = _build(directory, config, backbone)
        state = load_file(directory / WEIGHTS_FILE)
        means = {key: tuple(map(float, config[key])) for key in ("mean", "std")}
        temperature = _positive(config.get("temperature", 1.0))
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{directory}: damaged model folder ({reason}); save it again") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{directory / WEIGHTS_FILE} does not fit {CONFIG_FILE}: {reason}") from error
    # What the model was trained with counts, whatever its name stands for by now.
    model.config = replace(model.config, **means, temperature=temperature)
    model.backbone.mean, model.backbone.std = means["mean"], means["std"]
    return model.eval()


def _build(directory: Path, config: dict[str, Any], backbone: nn.Module | None) -> FineGrainedModel:
    name = config["backbone"]
    if name is not None and backbone is not None:
        raise CheckpointError(f"{directory}: made from the backbone {name!r}; leave out backbone=")
    chosen = name if backbone is None else backbone
    if chosen is None:
        raise CheckpointError(f"{directory}: made around a module of its author's; pass it as backbone=")
    # Every parameter is given, so that no option can stand in for one: `weights` would be a path.
    return create_model(
        chosen,
        None,
        method=config["method"],
        pretrained=False,
        weights=None,
        stage=config["stage"],
        image_size=config["image_size"],
        class_names=config["class_names"],
        **config["options"],
    )


def _positive(value: Any) -> float:
    if not 0 < float(value) < math.inf:
        raise ValueError(f"temperature {value}, expected a number above 0")
    return float(value)


def is_hub_id(source: Path | str) -> bool:
    """Whether something has the form `user/name`; a path never has."""
    return isinstance(source, str) and source.count("/") == 1 and not source.startswith((".", "/", "~"))


def _folder(source: Path | str) -> Path | None:
    """The folder that is meant; None for what must be a hub id."""
    directory = Path(source)
    if directory.is_dir():
        return directory
    if not is_hub_id(source):
        raise CheckpointError(f"{source}: no such folder; {_EXPECTED}")
    return None


def _snapshot(repo_id: str, revision: str | None, *, download: bool) -> Path:
    """The folder of a hub model in the cache; OSError or ValueError if it cannot be had."""
    return Path(
        snapshot_download(
            repo_id,
            revision=revision,
            allow_patterns=[WEIGHTS_FILE, CONFIG_FILE],
            local_files_only=not download,
        )
    )


def _require_inside(directory: Path, name: str) -> None:
    home = directory.resolve()
    if home.parent.name == "snapshots":  # the hub's cache keeps the files of all revisions in one place
        home = home.parents[1]
    file = (directory / name).resolve()
    if not file.is_relative_to(home):
        raise CheckpointError(f"{directory / name}: a link to outside of the folder; copy the file into it")


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return file_digest(content, "sha256").hexdigest()


def _parse_config(directory: Path) -> dict[str, Any]:
    file = directory / CONFIG_FILE
    try:
        config = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); save the model again") from error
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise CheckpointError(f"{file}: not a model configuration of ggam")
    if config["format"] > FORMAT:
        raise CheckpointError(
            f"{directory}: written by ggam {config.get('ggam')}, a newer version than this one "
            f"({__version__}); upgrade with pip install --upgrade ggam"
        )
    return config
