"""The compared systems, by name, and how to build one."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

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
    chosen = METHODS[method]
    known = [option.name for option in fields(chosen.Options)]
    for name in options:
        if name not in known:
            raise ValueError(f"method {method!r} has no option {name!r}: {_suggest(name, known)}")
    names = _class_names(num_classes, class_names)
    method_options = chosen.Options(**options)
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
        options=asdict(method_options),
    )
    return chosen(built, config, method_options)


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
