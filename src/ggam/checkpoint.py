"""Model folders: `model.safetensors` beside `config.json`, written at once or not at all."""

import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ggam.methods import create_model
from ggam.methods.base import FineGrainedModel

FORMAT = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


class CheckpointError(ValueError):
    """A model folder that is missing, damaged, or from a newer version."""


def save_model(model: FineGrainedModel, directory: Path | str) -> None:
    """Write a model folder, replacing one that is there.

    The folder holds the weights (without what DDP or torch.compile add to their names), how the
    model was made, its class names and its preprocessing.
    """
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    state = {
        key.replace("_orig_mod.", ""): value.detach().cpu().contiguous()
        for key, value in model.state_dict().items()
    }
    config = {"format": FORMAT, "ggam": version("ggam"), **model.config.to_dict()}
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as temporary:
        fresh = Path(temporary, "fresh")
        fresh.mkdir()
        save_file(state, fresh / WEIGHTS_FILE)
        (fresh / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
        if directory.exists():
            os.replace(directory, Path(temporary, "old"))
        os.replace(fresh, directory)


def load_model(source: Path | str, *, backbone: nn.Module | None = None) -> FineGrainedModel:
    """Read a model folder, or download one from the Hugging Face hub, in eval mode.

    Args:
        source: a folder written by `save_model`, or a hub id (`user/name`).
        backbone: the backbone module, for a model that was made around one instead of a name.

    Raises:
        CheckpointError: if the folder is missing, damaged, or written by a newer version.
    """
    directory = _resolve(source)
    config = _read_config(directory)
    name = config.pop("backbone")
    if name is None and backbone is None:
        raise CheckpointError(f"{directory}: made around a module of its author's; pass it as backbone=")
    try:
        model = create_model(
            name if backbone is None else backbone,
            method=config["method"],
            pretrained=False,
            stage=config["stage"] if backbone is None else None,
            image_size=config["image_size"],
            class_names=config["class_names"],
            **config["options"],
        )
        model.load_state_dict(load_file(directory / WEIGHTS_FILE))
    except (KeyError, SafetensorError, OSError) as error:
        raise CheckpointError(f"{directory}: damaged model folder ({error}); save it again") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{directory / WEIGHTS_FILE} does not fit {CONFIG_FILE}: {reason}") from error
    return model.eval()


def _resolve(source: Path | str) -> Path:
    directory = Path(source)
    if directory.is_dir():
        return directory
    if isinstance(source, str) and source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return Path(snapshot_download(source, allow_patterns=[WEIGHTS_FILE, CONFIG_FILE]))
    raise CheckpointError(
        f"{source}: no such folder; expected one that holds {CONFIG_FILE} and {WEIGHTS_FILE}"
    )


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        config = json.loads((directory / CONFIG_FILE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory / CONFIG_FILE} cannot be read ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise CheckpointError(f"{directory / CONFIG_FILE}: not a model configuration of ggam")
    if config["format"] > FORMAT:
        raise CheckpointError(
            f"{directory}: written by ggam {config.get('ggam')}, a newer version than this one "
            f"({version('ggam')}); upgrade with pip install --upgrade ggam"
        )
    return config
