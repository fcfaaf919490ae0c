"""The recipe of a run: everything that decides its result, as dataclasses with the paper's defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from ggam.methods.registry import METHODS, make_options, plain_options, typed
from ggam.system.devices import Precision

Accelerator = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """Which network."""

    method: str = "ggam"
    """The system to train; `ggam methods` lists them."""
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
    options: Any = None
    """The method's own options, an instance of its `Options`; None takes their defaults."""
    data: DataRecipe = field(default_factory=DataRecipe)
    optimization: OptimizationRecipe = field(default_factory=OptimizationRecipe)
    machine: MachineRecipe = field(default_factory=MachineRecipe)

    def __post_init__(self) -> None:
        """Fill in the method's options, refuse those of another, and batches that do not divide."""
        kind = METHODS[self.model.method].Options
        if self.options is None:
            object.__setattr__(self, "options", kind())
        if type(self.options) is not kind:
            raise ValueError(f"options={self.options!r}: expected those of the method {self.model.method!r}")
        ranks = self.machine.devices * self.machine.nodes
        if self.data.batch_size % ranks:
            raise ValueError(f"batch_size={self.data.batch_size}: expected a multiple of the {ranks} devices")

    @property
    def backbone(self) -> str:
        """The network that is built: the one named, or the one that its method starts from instead."""
        if not self.model.pretrained or self.model.weights is not None:
            return self.model.backbone
        return METHODS[self.model.method].published_backbone(self.model.backbone, self.options)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as recipes and `config.yaml` hold them: the method's options under its name."""
        own = {self.model.method: self.options}
        return common_options(self.model, self.data, self.optimization, self.machine, own)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """The recipe of a mapping as `to_dict` gives it; what it leaves out keeps its default.

        Raises:
            ValueError: for an unknown key, with the nearest known one, options of another method than the
                recipe's, or a value out of range.
        """
        homes = {option.name: part for part, kind in _PARTS.items() for option in fields(kind)}
        parts: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
        own: dict[str, Any] = {}
        method = values.get("method", ModelRecipe.method)
        for name, value in values.items():
            if name in homes:
                parts[homes[name]][name] = value
            elif name == method and method in METHODS:
                if not isinstance(value, Mapping):
                    raise ValueError(f"{method}={value!r}: expected a mapping of the options of this method")
                own = dict(value)
            elif name in METHODS:
                raise ValueError(f"{name}: options of the method {name}, but the recipe's method is {method}")
            else:
                raise ValueError(f"recipe has no option {name!r}: {_suggest(name, homes, method)}")
        model = typed(ModelRecipe, parts.pop("model"))
        rest = {part: typed(_PARTS[part], given) for part, given in parts.items()}
        return cls(model=model, options=make_options(model.method, own), **rest)


def common_options(
    model: ModelRecipe,
    data: DataRecipe,
    optimization: OptimizationRecipe,
    machine: MachineRecipe,
    methods: Mapping[str, Any],
) -> dict[str, Any]:
    """The plain values that recipes of several methods have in common, as `Recipe.from_dict` reads them.

    Args:
        model: which network; its method is one of several.
        data: which pictures.
        optimization: how it is trained.
        machine: on what.
        methods: the options of each method, by its name.
    """
    parts = [plain_options(part) for part in (model, data, optimization, machine)]
    own = {name: plain_options(options) for name, options in methods.items()}
    common = {name: value for part in parts for name, value in part.items()}
    return common | {name: section for name, section in own.items() if section}


def flat_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, those of a method as `NAME.option`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = value if isinstance(value, Mapping) else {}
        flat |= {f"{name}.{option}": each for option, each in inner.items()} or {name: value}
    return flat


def for_method(values: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The values of a recipe for one method, without the sections of others that it may hold as well."""
    return {name: value for name, value in values.items() if name not in METHODS or name == method}


_PARTS: dict[str, Any] = {
    "model": ModelRecipe,
    "data": DataRecipe,
    "optimization": OptimizationRecipe,
    "machine": MachineRecipe,
}


def _require(recipe: object, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name}={getattr(recipe, name)}: expected {expected}")


def _suggest(name: str, common: Mapping[str, str], method: str) -> str:
    """What may be meant by an unknown option, those of methods included."""
    owners = [owner for owner, kind in METHODS.items() if name in [o.name for o in fields(kind.Options)]]
    if owners:
        owner = method if method in owners else owners[0]
        return f"options of a method stand below its name; did you mean {owner}: {{{name}: …}}?"
    close = get_close_matches(name, common, n=1)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(common)}"
