"""The device that a name means on this machine."""

from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]


class DeviceError(ValueError):
    """Devices that this machine has not got, or whose memory does not suffice."""


def default_device(accelerator: str = "auto") -> torch.device:
    """The device that `auto` or a named accelerator means on this machine.

    Raises:
        DeviceError: if the machine has no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available.get(accelerator):
        there = ", ".join(name for name, usable in available.items() if usable)
        raise DeviceError(f"accelerator {accelerator!r} is not on this machine; it has {there}")
    return torch.device(accelerator)


def resolve_precision(precision: Precision, device: torch.device) -> Literal["bf16", "fp32"]:
    """What `auto` means on a device: bf16 on GPUs and CPUs that have instructions for it."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
    return "fp32"
