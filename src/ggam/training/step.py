"""The training step: losses, backward, optimiser and schedule, in one function."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from ggam.methods.base import FineGrainedModel
from ggam.training.recipe import OptimizationRecipe

Batch = tuple[Tensor, Tensor]
"""Images (B, 3, h, w) and labels (B,)."""


_COLUMNS = {"epoch", "loss", "val_loss", "val_accuracy", "seconds"}
"""Of the log, beside the terms of the loss."""


class TrainingDiverged(ValueError):
    """The loss is not a number any more."""


@dataclass
class Trained:
    """What a step works on."""

    model: FineGrainedModel
    losses: nn.Module
    """(images, labels) → the model's losses, in the run's precision, synchronised over the ranks."""
    optimizer: Optimizer
    schedule: LRScheduler
    clip: float | None
    """Largest norm of the gradient."""


def training_step(fabric: Fabric, trained: Trained, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """One update of the weights from one or several batches, whose losses are averaged.

    Args:
        fabric: the precision and the ranks.
        trained: the model and its optimiser.
        batches: this rank's parts, on its device.

    Returns:
        The mean over the batches and ranks of `loss`, of its terms and of the model's diagnostics.

    Raises:
        TrainingDiverged: on all ranks together, naming the term that stopped being a number.
    """
    measured: list[dict[str, Tensor]] = []
    for images, labels in batches:
        last = len(measured) + 1 == len(batches)
        with fabric.no_backward_sync(trained.losses, enabled=not last):  # pyright: ignore[reportArgumentType]
            trained.model.diagnostics = {}
            terms: dict[str, Tensor] = trained.losses(images, labels)
            _require_terms(trained, terms)
            loss = torch.stack(list(terms.values())).sum()
            values = {"loss": loss, **terms, **trained.model.diagnostics}
            measured.append(_over_ranks(fabric, values))
            _require_finite(measured[-1], terms)
            fabric.backward(loss / len(batches))
    if trained.clip is not None:
        fabric.clip_gradients(
            trained.losses, trained.optimizer, max_norm=trained.clip, error_if_nonfinite=False
        )
    trained.optimizer.step()
    trained.optimizer.zero_grad(set_to_none=True)
    trained.schedule.step()
    names = dict.fromkeys(name for each in measured for name in each)
    return {name: torch.stack([m[name] for m in measured if name in m]).mean() for name in names}


class Losses(nn.Module):
    """A model's `losses` as a module, which DDP can wrap.

    Args:
        model: what is trained.
        bf16: run the backbone in bf16. The images stay in float32: Fabric's own mixed precision rounds them.
    """

    def __init__(self, model: FineGrainedModel, *, bf16: bool = False) -> None:
        super().__init__()
        self.model = model
        self.bf16 = bf16

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, h, w), labels (B,) → the terms, scalars."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model.losses(images, labels)


def build_optimizer(
    model: FineGrainedModel, recipe: OptimizationRecipe, total_steps: int
) -> tuple[SGD, CosineAnnealingLR]:
    """SGD at the rates of the model's parameter groups, annealed to zero along a cosine, step by step.

    It holds all parameters, also those that rest in a stage: without a gradient they are left alone.

    Raises:
        ValueError: if the groups leave out a parameter, or name one twice.
    """
    groups: list[dict[str, Any]] = []
    for group in model.parameter_groups():
        rate = recipe.backbone_lr if group.pretrained else recipe.lr
        groups.append(
            {
                "params": list(group.parameters),
                "lr": group.factor * rate,
                "weight_decay": recipe.weight_decay if group.decay else 0.0,
                "name": f"{group.name}_lr" if group.name else "lr",
            }
        )
    columns = [group["name"] for group in groups]
    if len({*columns}) < len(columns):
        raise ValueError(f"{type(model).__name__}.parameter_groups: two groups have one name: {columns}")
    _require_each_once(model, [id(p) for group in groups for p in group["params"]])
    optimizer = SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
    return optimizer, CosineAnnealingLR(optimizer, T_max=max(1, total_steps))


def _over_ranks(fabric: Fabric, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each value over the ranks, detached.

    Raises:
        ValueError: on all ranks together, if they have not all measured the same.
    """
    if fabric.world_size > 1:  # else the ranks would wait for values that one of them has not got
        key = float(crc32(",".join(values).encode()))
        ends: Any = fabric.all_reduce(torch.tensor([key, -key], device=fabric.device), reduce_op="max")
        if float(ends[0] + ends[1]):
            raise ValueError(f"the terms of the loss depend on the batch: here {', '.join(values)}")
    stacked = torch.stack([value.detach().float() for value in values.values()])
    means: Any = fabric.all_reduce(stacked, reduce_op="mean")
    return dict(zip(values, means.unbind(), strict=True))


def _require_terms(trained: Trained, terms: dict[str, Tensor]) -> None:
    """Scalars with names that are no other column of the log."""
    method, diagnostics = type(trained.model).__name__, trained.model.diagnostics
    if not isinstance(terms, dict) or not terms:
        raise ValueError(f"{method}.losses returned {terms!r}: expected one term at least, by its name")
    for name, value in {**terms, **diagnostics}.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            what = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise ValueError(f"{method}.losses: {name!r} is {what}, expected a scalar tensor")
    taken = _COLUMNS | {group["name"] for group in trained.optimizer.param_groups}
    double = sorted((terms.keys() & diagnostics.keys()) | ((terms.keys() | diagnostics.keys()) & taken))
    if double:
        raise ValueError(f"{method}.losses: {double[0]!r} is a column of the log already; rename it")


def _require_finite(measured: dict[str, Tensor], terms: dict[str, Tensor]) -> None:
    """Stop all ranks together: one alone would leave the others waiting for its gradients."""
    if math.isfinite(float(measured["loss"])):
        return
    broken = next((name for name in terms if not math.isfinite(float(measured[name]))), "loss")
    raise TrainingDiverged(f"the term {broken!r} of the loss is {float(measured[broken])}")


def _require_each_once(model: FineGrainedModel, ids: list[int]) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    wrong = [name for key, name in names.items() if ids.count(key) != 1]
    if wrong or len(ids) != len(names):
        what = wrong[0] if wrong else "a parameter of another model"
        raise ValueError(
            f"{type(model).__name__}.parameter_groups: {what} is not in exactly one group; "
            "expected every parameter once"
        )
