"""Weights for backbones: files, how they must fit, and whether published ones can be had."""

import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from torch import Tensor, nn

_CONNECT_SECONDS = 3.0


class BackboneError(ValueError):
    """A backbone that cannot be built, or whose output is not a (B, C, H, W) map."""


def one_line(error: Exception) -> str:
    """What an error says, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def read_state(file: Path) -> dict[str, Tensor]:
    """The state dict in a file, its names free of what DataParallel and torch.compile add.

    Args:
        file: safetensors, or what `torch.load` reads with `weights_only=True`: a state dict, also
            one nested under `state_dict`, `model_state_dict` or `model`; or a folder that holds a
            `model.safetensors`.

    Raises:
        BackboneError: if the file is missing, damaged, holds code, is no state dict, or is that of a
            whole model of ggam.
    """
    if file.is_dir():
        file /= "model.safetensors"
    if not file.is_file():
        raise BackboneError(f"weights {file}: no such file; expected .safetensors or a torch state dict")
    try:
        if file.suffix == ".safetensors":
            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has errors of its own
        raise BackboneError(
            f"weights {file} cannot be read ({one_line(error)}): expected .safetensors or a state dict "
            "of tensors"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise BackboneError(f"weights {file}: expected a state dict, names to tensors")
    if any("backbone.body." in key for key in state):  # in run checkpoints too, with a prefix
        raise BackboneError(
            f"weights {file}: a whole model of ggam (its keys start with backbone.); expected the weights of "
            "a backbone alone, as timm and torchvision publish them"
        )
    return {plain_key(key): value for key, value in state.items()}


def plain_key(key: str) -> str:
    """A parameter's name without what DataParallel and torch.compile put around it."""
    return key.replace("_orig_mod.", "").removeprefix("module.")


def misfits(model: nn.Module, state: Mapping[str, Tensor], removed: Collection[str]) -> str:
    """What keeps a state dict from fitting a model, in words; empty if it fits.

    Args:
        model: what the weights are for.
        state: names to tensors.
        removed: names of the layers that were cut off the model, such as its classifier; they
            may be in `state`, in any shape.
    """
    wanted = model.state_dict()
    unknown = sorted(set(state) - set(wanted) - set(removed))
    missing = sorted(key for key in set(wanted) - set(state) if not key.endswith("num_batches_tracked"))
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in sorted(set(state) & set(wanted))
        if state[key].shape != wanted[key].shape
    ]
    return "; ".join(
        f"{what}: {', '.join(keys[:8])}{f' and {len(keys) - 8} more' if len(keys) > 8 else ''}"
        for what, keys in (("missing keys", missing), ("unknown keys", unknown), ("other shapes", shapes))
        if keys
    )


def load_weights(model: nn.Module, state: Mapping[str, Tensor], removed: Collection[str], file: Path) -> None:
    """Load a state dict strictly, but for the names in `removed`, see `misfits`.

    Raises:
        BackboneError: if it does not fit; it names the file.
    """
    problems = misfits(model, state, removed)
    if problems:
        raise BackboneError(f"weights {file} do not fit this backbone: {problems}")
    wanted = set(model.state_dict())
    model.load_state_dict({key: value for key, value in state.items() if key in wanted}, strict=False)


def in_torch_cache(url: str) -> bool:
    """Whether torch has downloaded this address before."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(urllib.parse.urlparse(url).path).name).is_file()


def require_download(what: str, address: str) -> None:
    """Fail at once, instead of after a minute of retries, where nothing can be downloaded.

    Raises:
        BackboneError: if the address does not answer.
    """
    if not reachable(address):
        host = urllib.parse.urlparse(address).hostname
        raise BackboneError(
            f"pre-trained weights of {what!r} are not on this machine and {host} cannot be reached: "
            "pass a file with --weights, or train from scratch with --no-pretrained"
        )


def reachable(address: str) -> bool:
    """Whether an HTTP server answers, through the proxy if there is one, within three seconds.

    Never, where `HF_HUB_OFFLINE` says that this machine is offline.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(address, method="HEAD")
            urllib.request.urlopen(request, timeout=_CONNECT_SECONDS).close()
        except urllib.error.HTTPError as error:
            error.close()  # an answer, if not a friendly one
        except (OSError, ValueError):
            return
        answered.set()

    # A thread, because looking up a name knows no time limit.
    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(_CONNECT_SECONDS)
