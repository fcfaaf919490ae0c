"""The compared systems, by name, and how to build one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import nn

from ggam.backbones.build import create_backbone
from ggam.methods.base import FineGrainedModel, ModelConfig
from ggam.methods.baseline import Baseline
from ggam.methods.cbam import CBAM
from ggam.methods.ggam import GGAM
from ggam.methods.senet import SENet

METHODS: dict[str, type[FineGrainedModel]] = {
    "baseline": Baseline,
    "senet": SENet,
    "cbam": CBAM,
    "ggam": GGAM,
}


def create_model(
    backbone: str | nn.Module,
    num_classes: int | None = None,
    *,
    method: str = "ggam",
    pretrained: bool = True,
    weights: Path | str | None = None,
    stage: int | str | None = None,
    image_size: int = 448,
    class_names: Sequence[str] | None = None,
    **options: Any,
) -> FineGrainedModel:
    """Build a fine-grained classifier.

    Args:
        backbone: a timm name, `torchvision/NAME`, or a module that maps images (B, 3, h, w) to
            (B, C, H, W).
        num_classes: K; may be left out where `class_names` is given.
        method: a key of `METHODS`.
        pretrained: start the backbone from its published ImageNet weights.
        weights: start the backbone from this file instead.
        stage: which feature map to use, see `ggam.backbones.build.create_backbone`.
        image_size: height and width of the images in pixels.
        class_names: K names, in the order of the labels; by default "0", "1", …
        **options: the method's own, the fields of its `Options`; `ggam methods NAME` lists them.

    Raises:
        ValueError: for an unknown method or option, or names that do not fit the number of classes.
        BackboneError: if the backbone cannot be built.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}: {_suggest(method, list(METHODS))}")
    chosen, method_options = METHODS[method], make_options(method, options)
    names = _class_names(num_classes, class_names)
    if isinstance(backbone, str) and pretrained and weights is None:
        backbone = chosen.published_backbone(backbone, method_options)
    built = create_backbone(
        backbone,
        pretrained=pretrained,
        weights=weights,
        stage=stage,
        image_size=image_size,
        earlier=chosen.earlier_maps,
    )
    config = ModelConfig(
        method=method,
        backbone=backbone if isinstance(backbone, str) else None,
        stage=stage,
        image_size=image_size,
        class_names=names,
        mean=built.mean,
        std=built.std,
        options=plain_options(method_options),
    )
    return chosen(built, config, method_options)


def make_options(method: str, values: Mapping[str, Any]) -> Any:
    """The options of a method from plain values, as `plain_options` gives them.

    Raises:
        ValueError: for an option that it has not, or a value that is not of the option's kind.
    """
    kind = METHODS[method].Options
    hints = get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise ValueError(f"method {method!r} has no option {name!r}: {_suggest(name, list(hints))}")
    return typed(kind, values)


def typed(kind: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass of options from plain values: lists as tuples, and text as paths, where a field says so.

    Raises:
        ValueError: for a value that is not of its field's kind.
    """
    hints, given = get_type_hints(kind), dict(values)
    for name, value in values.items():
        kinds = get_args(hints[name]) if get_origin(hints[name]) in (Union, UnionType) else (hints[name],)
        if any(get_origin(each) is tuple or each is tuple for each in kinds) and isinstance(value, list):
            given[name] = tuple(value)
        elif Path in kinds and isinstance(value, str):
            given[name] = Path(value)
        elif all(isinstance(each, type) for each in kinds) and not _fits(value, kinds):
            expected = " or ".join("none" if each is type(None) else each.__name__ for each in kinds)
            raise ValueError(f"{name}={value!r}: expected {expected}")
    return kind(**given)


def _fits(value: Any, kinds: Sequence[type]) -> bool:
    """Whether a value is of one of the kinds; a whole number is a float too, and a switch no number."""
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, (*kinds, int) if float in kinds else tuple(kinds))


def plain_options(options: Any) -> dict[str, Any]:
    """Options as JSON and YAML can hold them: tuples as lists, paths as text."""

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return str(value) if isinstance(value, Path) else value

    return {name: plain(value) for name, value in asdict(options).items()}


def _class_names(num_classes: int | None, class_names: Sequence[str] | None) -> tuple[str, ...]:
    names = tuple(class_names) if class_names is not None else tuple(map(str, range(num_classes or 0)))
    if len(names) < 2 or num_classes not in (None, len(names)):
        raise ValueError(
            f"num_classes={num_classes} with {len(names)} class names: expected at least 2 classes, "
            "and as many names"
        )
    return names


def _suggest(given: str, known: Sequence[str]) -> str:
    close = get_close_matches(given, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"expected one of {', '.join(known)}" if known else "it has none"
