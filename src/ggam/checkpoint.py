"""Model folders: `model.safetensors` beside `config.json`, written whole or not at all."""

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ggam._version import __version__
from ggam.methods import create_model
from ggam.methods.base import FineGrainedModel
from ggam.weights import plain_key, reachable

FORMAT = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


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
    config = {"format": FORMAT, "ggam": __version__, **model.config.to_dict()}
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as temporary:
        fresh = Path(temporary, "fresh")
        fresh.mkdir()
        save_file(state, fresh / WEIGHTS_FILE)
        (fresh / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
        if directory.is_dir():
            for name in (WEIGHTS_FILE, CONFIG_FILE):
                os.replace(fresh / name, directory / name)
        else:
            os.replace(fresh, directory)


def load_model(source: Path | str, *, backbone: nn.Module | None = None) -> FineGrainedModel:
    """Read a model folder, or download one from the Hugging Face hub, in eval mode.

    Args:
        source: a folder written by `save_model`, or a hub id (`user/name`).
        backbone: the backbone module, for a model that was made around one instead of a name.

    Raises:
        CheckpointError: if the folder is missing, damaged, or written by a newer version, or if
            `backbone` is missing or given for a model that was made from a name.
    """
    directory = _resolve(source)
    config = _read_config(directory)
    try:
        model = _build(directory, config, backbone)
        state = load_file(directory / WEIGHTS_FILE)
        means = {key: tuple(map(float, config[key])) for key in ("mean", "std")}
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
    model.config = replace(model.config, **means)
    model.backbone.mean, model.backbone.std = means["mean"], means["std"]
    return model.eval()


def _build(directory: Path, config: dict[str, Any], backbone: nn.Module | None) -> FineGrainedModel:
    name = config["backbone"]
    if name is not None and backbone is not None:
        raise CheckpointError(f"{directory}: made from the backbone {name!r}; leave out backbone=")
    chosen = name if backbone is None else backbone
    if chosen is None:
        raise CheckpointError(f"{directory}: made around a module of its author's; pass it as backbone=")
    return create_model(
        chosen,
        method=config["method"],
        pretrained=False,
        stage=config["stage"],
        image_size=config["image_size"],
        class_names=config["class_names"],
        **config["options"],
    )


def _resolve(source: Path | str) -> Path:
    directory = Path(source)
    if directory.is_dir():
        return directory
    expected = f"expected a folder that holds {CONFIG_FILE} and {WEIGHTS_FILE}"
    if isinstance(source, Path) or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise CheckpointError(f"{source}: no such folder; {expected}")
    try:
        return Path(
            snapshot_download(
                source,
                allow_patterns=[WEIGHTS_FILE, CONFIG_FILE],
                local_files_only=not reachable(constants.ENDPOINT),
            )
        )
    except (OSError, ValueError) as error:  # the hub's errors are of these two kinds
        raise CheckpointError(
            f"{source}: no such folder, nor to be had from the Hugging Face hub; {expected}, or a hub id"
        ) from error


def _read_config(directory: Path) -> dict[str, Any]:
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
