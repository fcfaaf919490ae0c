"""What the equations agree on about precision: float32 at least, whatever autocast says."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

EMPTY_MASS = 1e-12
"""A map whose values add up to no more than this counts as all zero: 1/mass must stay finite."""


def widen(tensor: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def autocast_off(tensor: Tensor) -> AbstractContextManager[object]:
    """A block in which matrix products keep the precision of their inputs, on the tensor's device.

    Nothing is entered where autocast is off already: an exported graph would record it.
    """
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
