"""The recipe of a run: everything that decides its result, as dataclasses with the paper's defaults."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from ggam.methods.base import FineGrainedModel
from ggam.methods.ggam import GGAMOptions
from ggam.methods.insertion import InsertionOptions
from ggam.methods.registry import METHODS

Accelerator = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """Which network."""

    method: str = "ggam"
    """baseline (the plain network), senet, cbam or ggam."""
    backbone: str = "resnet50"
    """A timm model, or torchvision/NAME."""
    pretrained: bool = True
    """Start from the published ImageNet weights (downloaded on first use)."""
    weights: Path | None = None
    """Start from this file instead: .safetensors or a torch state dict."""
    stage: int | str | None = None
    """Feature map to attend to: timm stage index or torchvision submodule; default: the last."""
    image_size: int = 448
    """Height and width of what the network sees, in pixels."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r}: expected one of {', '.join(METHODS)}")
        _require(self, "image_size", self.image_size >= 32, "at least 32 pixels")


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Which pictures."""

    layout: str | None = None
    """Layout of the data set; default: recognised from its files."""
    val_fraction: float = 0.1
    """Share of the training pictures held out to choose the best epoch; 0: the last epoch counts."""
    train_per_class: int | None = None
    """Train on at most this many pictures of each class; default: all."""
    batch_size: int = 32
    """Pictures per step, over all devices."""
    workers: int = 2
    """Processes that decode pictures, per device; no influence on results."""
    cache: Path | None = None
    """Folder that keeps the training pictures decoded (9 GB for CUB at 448 pixels); default: none."""

    def __post_init__(self) -> None:
        """Refuse what cannot be loaded."""
        _require(self, "val_fraction", 0 <= self.val_fraction < 1, "a share from 0 to below 1")
        _require(self, "train_per_class", (self.train_per_class or 1) >= 1, "at least 1")
        _require(self, "batch_size", self.batch_size >= 2, "at least 2")
        _require(self, "workers", self.workers >= 0, "0 or more")


@dataclass(frozen=True, kw_only=True)
class OptimizationRecipe:
    """How it is trained: SGD with cosine annealing to zero (sect. 3.2 of the paper)."""

    epochs: int = 100
    """Passes over the training pictures."""
    lr: float = 0.1
    """Learning rate of the attention and the classifier, at the start."""
    backbone_lr: float = 0.01
    """Learning rate of the backbone, at the start."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """L2 penalty on all weights."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""
    clip: float | None = None
    """Largest norm of the gradient; default: not clipped."""

    def __post_init__(self) -> None:
        """Refuse what cannot be minimised."""
        _require(self, "epochs", self.epochs >= 1, "at least 1")
        for name in ("lr", "backbone_lr", "momentum", "weight_decay"):
            _require(self, name, getattr(self, name) >= 0, "0 or more")
        _require(self, "accumulate", self.accumulate >= 1, "at least 1")
        _require(self, "clip", self.clip is None or self.clip > 0, "above 0")


@dataclass(frozen=True, kw_only=True)
class MachineRecipe:
    """On what, and from which random numbers."""

    seed: int = 0
    """Decides the split, the initial weights, the order of the pictures and their crops."""
    devices: int = 1
    """Devices per node, trained on in parallel (DDP)."""
    nodes: int = 1
    """Machines; start the same command on each, by torchrun, Slurm, or with NODE_RANK and MASTER_ADDR set."""
    accelerator: Accelerator = "auto"
    """What to compute on."""
    precision: Precision = "auto"
    """bf16 (mixed) or fp32; auto: bf16 where the device computes it natively."""
    compile: bool = False
    """Compile the backbone with torch.compile."""

    def __post_init__(self) -> None:
        """Refuse what no machine has."""
        for name in ("devices", "nodes"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        for name, literal in (("accelerator", Accelerator), ("precision", Precision)):
            choices = get_args(literal)
            _require(self, name, getattr(self, name) in choices, f"one of {', '.join(choices)}")
        _require(self, "seed", 0 <= self.seed < 2**31, "0 to 2³¹ - 1")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result of a run but the data."""

    model: ModelRecipe = field(default_factory=ModelRecipe)
    ggam: GGAMOptions = field(default_factory=GGAMOptions)
    insertion: InsertionOptions = field(default_factory=InsertionOptions)
    data: DataRecipe = field(default_factory=DataRecipe)
    optimization: OptimizationRecipe = field(default_factory=OptimizationRecipe)
    machine: MachineRecipe = field(default_factory=MachineRecipe)

    def __post_init__(self) -> None:
        """Refuse options of a method that is not used, and batches that do not divide."""
        for part in (self.ggam, self.insertion):
            _refuse_foreign(part, self.model.method)
        ranks = self.machine.devices * self.machine.nodes
        if self.data.batch_size % ranks:
            raise ValueError(f"batch_size={self.data.batch_size}: expected a multiple of the {ranks} devices")

    @property
    def method_options(self) -> dict[str, Any]:
        """The options to build the method with."""
        wanted = METHODS[self.model.method].Options
        return next((asdict(part) for part in (self.ggam, self.insertion) if type(part) is wanted), {})

    @property
    def backbone(self) -> str:
        """The network that is built: the one named, or the one that its method starts from instead."""
        if not self.model.pretrained or self.model.weights is not None:
            return self.model.backbone
        method = METHODS[self.model.method]
        return method.published_backbone(self.model.backbone, method.Options(**self.method_options))

    def to_flat(self) -> dict[str, Any]:
        """One flat mapping of plain values, as `config.yaml` holds it."""
        return flatten(*(getattr(self, part.name) for part in fields(self)))

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> "Recipe":
        """The recipe of a flat mapping; what it leaves out keeps its default.

        Raises:
            ValueError: for an unknown key, with the nearest known one, or a value out of range.
        """
        parts: dict[str, dict[str, Any]] = {part.name: {} for part in fields(cls)}
        homes = {option.name: part for part, kind in _PARTS.items() for option in fields(kind)}
        for name, value in values.items():
            if name not in homes:
                close = get_close_matches(name, homes, n=1)
                hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(homes)}"
                raise ValueError(f"recipe has no option {name!r}: {hint}")
            parts[homes[name]][name] = Path(value) if name in ("weights", "cache") and value else value
        return cls(**{part: kind(**parts[part]) for part, kind in _PARTS.items()})


def flatten(*parts: Any) -> dict[str, Any]:
    """The options of some parts of a recipe in one mapping of plain values."""
    options = (item for part in parts for item in asdict(part).items())
    return {name: str(value) if isinstance(value, Path) else value for name, value in options}


def build_optimizer(
    model: FineGrainedModel, recipe: OptimizationRecipe, total_steps: int
) -> tuple[Optimizer, CosineAnnealingLR]:
    """SGD with two learning rates, annealed to zero along a cosine, step by step."""
    pretrained = {id(parameter) for parameter in model.pretrained_parameters()}
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in model.parameters() if id(p) not in pretrained and p.requires_grad],
            "lr": recipe.lr,
        },
        {
            "params": [p for p in model.pretrained_parameters() if p.requires_grad],
            "lr": recipe.backbone_lr,
        },
    ]
    optimizer = SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    return optimizer, CosineAnnealingLR(optimizer, T_max=max(1, total_steps))


def resolve_precision(precision: Precision, device: torch.device) -> Literal["bf16", "fp32"]:
    """What `auto` means on a device: bf16 on GPUs and CPUs that have instructions for it."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
    return "fp32"


_PARTS: dict[str, type] = {
    "model": ModelRecipe,
    "ggam": GGAMOptions,
    "insertion": InsertionOptions,
    "data": DataRecipe,
    "optimization": OptimizationRecipe,
    "machine": MachineRecipe,
}


def _require(recipe: object, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name}={getattr(recipe, name)}: expected {expected}")


def _refuse_foreign(options: GGAMOptions | InsertionOptions, method: str) -> None:
    """Refuse options that differ from their defaults, if they belong to other methods than this one."""
    kind = type(options)
    owners = [name for name, known in METHODS.items() if known.Options is kind]
    defaults = asdict(kind())
    changed = [name for name, value in asdict(options).items() if value != defaults[name]]
    if changed and method not in owners:
        raise ValueError(
            f"{', '.join(changed)}: options of the method {' and '.join(owners)}, which {method!r} has not"
        )
