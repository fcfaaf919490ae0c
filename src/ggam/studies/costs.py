"""What each row of a study costs: size, arithmetic, and a training step's time and memory, side by side."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ggam.methods.base import FineGrainedModel
from ggam.system.devices import default_device, resolve_precision
from ggam.system.timing import peak_memory, take_turns
from ggam.training.recipe import Recipe
from ggam.training.run import build_model
from ggam.training.stages import Resting
from ggam.training.step import build_optimizer


@dataclass(frozen=True)
class Cost:
    """What a way to train costs, on this machine."""

    parameters: int
    flops: int
    """Of one picture's forward pass, as `torch.utils.flop_counter` counts them: two for a
    multiplication and its addition, in convolutions and matrix products only."""
    step_seconds: float
    """A training step with one batch (forward, backward, update); median over the rounds."""
    peak_memory_bytes: int
    """Weights, optimiser state, and all other tensors alive at once in such a step."""


def measure_costs(
    recipes: Mapping[str, Recipe],
    num_classes: int,
    *,
    rounds: int,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Cost]:
    """Measure the rows of a study in one process, taking turns, so that their ratios can be trusted.

    The weights are random and the pictures are noise, which changes nothing about cost; batch, image
    size, precision and device are the recipes'. Reading pictures is left out. The models stay in memory
    together: three times the weights of all of them, and the activations of one.

    Args:
        recipes: by the row's name; all on the same kind of accelerator.
        num_classes: K.
        rounds: how often each row's step is timed, at least 1.
        on_round: called after each round with the rounds done and their total.

    Raises:
        ValueError: if there is no round, or the recipes name several accelerators.
        DeviceError: if the machine has no such device.
        BackboneError: if a network cannot be built.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: expected at least 1")
    accelerators = {recipe.machine.accelerator for recipe in recipes.values()}
    if len(accelerators) != 1:
        raise ValueError(
            f"costs on {', '.join(sorted(accelerators)) or 'nothing'}: expected rows, all on one accelerator"
        )
    device = default_device(accelerators.pop())
    names = tuple(str(number) for number in range(num_classes))
    rows = {name: _Step(recipe, names, device) for name, recipe in recipes.items()}
    for step in rows.values():
        step()  # allocates the optimiser's state, chooses kernels, compiles
    memory = {name: peak_memory(step, device) + step.kept_bytes() for name, step in rows.items()}
    seconds = take_turns(rows, rounds, device, on_round)
    return {
        name: Cost(
            parameters=sum(parameter.numel() for parameter in step.model.parameters()),
            flops=count_flops(step.model, step.images[:1]),
            step_seconds=statistics.median(seconds[name]),
            peak_memory_bytes=memory[name],
        )
        for name, step in rows.items()
    }


def count_flops(model: FineGrainedModel, image: Tensor) -> int:
    """FLOPs of a forward pass of one image (1, 3, h, w); the model is left in eval mode."""
    counter = FlopCounterMode(display=False)
    # The counter does not see into compiled code.
    with torch.compiler.set_stance("force_eager"), torch.no_grad(), counter:
        model.eval()(image)
    return counter.get_total_flops()


class _Step:
    """A row's training step as a call, with its own model, optimiser and batch."""

    def __init__(self, recipe: Recipe, class_names: tuple[str, ...], device: torch.device) -> None:
        untrained = replace(recipe, model=replace(recipe.model, pretrained=False, weights=None))
        self.model = build_model(untrained, class_names).to(device)
        stages, resting = self.model.stages(), Resting(self.model)
        # The last epoch: past any warm-up and earlier stage, with all terms of the loss.
        self.model.epoch, self.model.training_stage = recipe.optimization.epochs - 1, len(stages) - 1
        resting.enter(stages[-1])
        resting.train(stages[-1])
        self.optimizer, _ = build_optimizer(self.model, recipe.optimization, total_steps=1)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # the same arithmetic, but noise for labels cannot make the weights diverge
        size, machine = recipe.model.image_size, recipe.machine
        batch = recipe.data.batch_size // (machine.devices * machine.nodes)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(batch, 3, size, size, generator=generator)
        self.images = images.to(device).to(memory_format=torch.channels_last)
        self.labels = torch.randint(len(class_names), (batch,), generator=generator).to(device)
        enabled = resolve_precision(machine.precision, device) == "bf16"
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=enabled)

    def __call__(self) -> None:
        with self.autocast:
            loss = torch.stack(list(self.model.losses(self.images, self.labels).values())).sum()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.diagnostics = {}  # of the step only, like the gradients

    def kept_bytes(self) -> int:
        """What the row keeps between steps: weights, buffers, optimiser state."""
        kept: list[Any] = [*self.model.parameters(), *self.model.buffers()]
        kept += [value for state in self.optimizer.state.values() for value in state.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept if isinstance(tensor, Tensor))
