"""Grad-CAM for models that are not of this package: any `nn.Module`, any of its layers."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ggam.backbones.build import eval_mode
from ggam.equations.gradcam import gradcam_map
from ggam.equations.precision import widen
from ggam.explanations.explanation import Explanation, fitting_classes, stacked_like, uncached_autocast

Layout = Literal["NCHW", "NHWC"] | Callable[[Tensor], Tensor]

_MOST_PREFIX_TOKENS = 16


class LayerError(ValueError):
    """A layer that cannot be explained."""


def explain_module(
    model: nn.Module,
    layer: str | nn.Module,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    layout: Layout | None = None,
) -> Explanation:
    """Grad-CAM (Eq. 4 and the heat map of it) of any network at any layer, in one forward pass.

    The graph is cut at the layer: what lies below it is not recorded, and only what lies above it is
    differentiated, once per class. The model runs in eval mode and is left as it was: mode, parameters,
    their `.grad` and `requires_grad`, hooks and the random state. Works with frozen parameters, under
    `torch.no_grad`, `torch.inference_mode` and autocast. One call at a time per model.

    Args:
        model: images → logits (B, K); of a tuple the first entry is taken, and `logits` of what has it.
        layer: a layer of the model or its dotted name, run once in a forward pass; its output, or the
            first entry if that is a tuple, is A. In a transformer that classifies by its class token, the
            other tokens of the last block no longer reach the logits: take the last block's first norm.
        images: (B, channels, h, w), normalised as the model expects; moved to the model's device.
        classes: the class to explain for each image (B,), or M classes for each (B, M); None explains
            the predicted one.
        layout: how to read the layer's output as a map. None tells channels first from channels last by
            the shape of the images, and reads (B, N, C) as a grid of tokens behind at most 16 others
            (class token, registers). Otherwise `NCHW`, `NHWC`, or a function that only reorders: it turns
            the output into (B, C, H, W), and is given the gradient too.

    Returns:
        As `ggam.explain`, in float32 or wider, with A in `features` and no attention.

    Raises:
        LayerError: if the layer is unknown, not run or run several times, not a map, or without
            influence on the logits.
        ValueError: if the images are not four-dimensional or the classes do not fit.
    """
    if images.ndim != 4:
        raise ValueError(f"images of shape {tuple(images.shape)}: expected (B, channels, h, w)")
    name, module = _find(model, layer)
    device = next((parameter.device for parameter in model.parameters()), images.device)
    images = images.detach().to(device)
    # A network may draw random numbers in eval mode too.
    random_state = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with torch.inference_mode(False), eval_mode(model), uncached_autocast(device), random_state:
        logits, leaf = _cut_forward(model, module, name, images)
        read = _reader(tuple(leaf.shape), tuple(images.shape), layout, name)
        shown = logits.argmax(dim=1) if classes is None else fitting_classes(classes, *logits.shape)
        betas = _class_weights(logits, leaf, shown.to(device), read, name)
        features = widen(read(leaf.detach()))
        maps = [gradcam_map(features, beta) for beta in betas]
    shown = shown.to(device)
    logits = widen(logits.detach())
    maps, betas = stacked_like(shown, maps), stacked_like(shown, betas)
    return Explanation(logits, shown, maps, betas, features, features, {})


class _Tap:
    """A forward hook that makes a layer's output a leaf, and starts recording behind it."""

    def __init__(self) -> None:
        self.calls = 0
        self.leaf: Tensor | None = None
        self.output: Any = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        self.calls += 1
        self.output = output
        first = output[0] if isinstance(output, tuple | list) and output else output
        if self.calls > 1 or not isinstance(first, Tensor) or not first.is_floating_point():
            return None
        # A layer that works in place, or does nothing, returns what the network may still change.
        given = [part for part in (*args, *kwargs.values()) if isinstance(part, Tensor)]
        shared = any(_storage(part) == _storage(first) for part in given)
        self.leaf = (first.detach().clone() if shared else first.detach()).requires_grad_()
        torch.set_grad_enabled(True)
        passed_on = self.leaf.clone()  # for the same reason: a ReLU behind the layer may work in place
        if first is output:
            return passed_on
        rest = (passed_on, *output[1:])
        return type(output)(*rest) if hasattr(output, "_fields") else type(output)(rest)


def _cut_forward(model: nn.Module, module: nn.Module, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, K), recorded from a layer on, and the layer's output, which is a leaf."""
    # A network that switches gradients off itself, around a part that ends with the layer, puts the
    # mode back to what it was at the start: only then is everything recorded.
    for recording in (False, True):
        tap = _Tap()
        handle = module.register_forward_hook(tap, with_kwargs=True)
        try:
            with torch.set_grad_enabled(recording):
                logits = _logits(model(images), len(images))
        finally:
            handle.remove()
        if tap.calls != 1:
            times = "not run" if not tap.calls else f"run {tap.calls} times"
            raise LayerError(f"layer {name!r} was {times} in the forward pass: expected once; choose another")
        if tap.leaf is None:
            raise LayerError(
                f"layer {name!r} returns {_describe(tap.output)}: expected a tensor of floats, or a tuple "
                "that starts with one"
            )
        if logits.requires_grad:
            return logits, tap.leaf
    raise _without_influence(name)


def _class_weights(
    logits: Tensor, leaf: Tensor, classes: Tensor, read: Callable[[Tensor], Tensor], name: str
) -> list[Tensor]:
    """Eq. (4): β (B, C) of each column of the classes (B, M)."""
    columns = classes.view(len(logits), -1).unbind(1)
    betas = []
    for done, column in enumerate(columns, start=1):
        with torch.enable_grad():
            chosen = logits.gather(1, column.unsqueeze(1)).sum()
        more = done < len(columns)
        (gradient,) = torch.autograd.grad(chosen, leaf, retain_graph=more, allow_unused=True)
        if gradient is None:
            raise _without_influence(name)
        betas.append(widen(read(gradient)).mean(dim=(2, 3)))
    return betas


def _find(model: nn.Module, layer: str | nn.Module) -> tuple[str, nn.Module]:
    """A layer's dotted name and the layer."""
    layers = dict(model.named_modules())
    if isinstance(layer, str):
        if layer not in layers:
            close = get_close_matches(layer, layers, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else "see model.named_modules()"
            raise LayerError(f"layer {layer!r}: the model has no such layer; {hint}")
        return layer, layers[layer]
    found = next((name for name, module in layers.items() if module is layer), None)
    if found is None:
        raise LayerError(f"layer {type(layer).__name__}: it is no part of the model that is explained")
    return found, layer


def _logits(output: Any, count: int) -> Tensor:
    """The logits y (B, K) in what a network returns."""
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if isinstance(found, tuple | list) and found:
        found = found[0]
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != count:
        raise ValueError(f"the model returns {_describe(found)}: expected logits ({count}, K)")
    return found


def _reader(
    output: tuple[int, ...], images: tuple[int, ...], layout: Layout | None, name: str
) -> Callable[[Tensor], Tensor]:
    """What turns a layer's output, and its gradient, into (B, C, H, W)."""
    if callable(layout):
        return _checked_reader(layout, images[0], name)
    if layout not in (None, "NCHW", "NHWC"):
        raise ValueError(f"layout {layout!r}: expected NCHW, NHWC or a function")
    if output[0] == images[0] and len(output) == 4:
        found = layout or _layout_of(output, images[2:], name)
        return (lambda tensor: tensor) if found == "NCHW" else (lambda tensor: tensor.permute(0, 3, 1, 2))
    if output[0] == images[0] and len(output) == 3 and layout is None:
        return _token_reader(output[1], images[2:], name)
    raise LayerError(
        f"layer {name!r} returns {output}: expected (B, C, H, W), (B, H, W, C) or (B, N, C) for a batch of "
        f"{images[0]}; choose another, or pass a function as layout"
    )


def _checked_reader(layout: Callable[[Tensor], Tensor], count: int, name: str) -> Callable[[Tensor], Tensor]:
    def read(tensor: Tensor) -> Tensor:
        found = layout(tensor)
        if found.ndim != 4 or len(found) != count:
            raise LayerError(
                f"layer {name!r}: the layout function turns {tuple(tensor.shape)} into {tuple(found.shape)}: "
                f"expected ({count}, C, H, W)"
            )
        return found

    return read


def _layout_of(output: tuple[int, ...], size: tuple[int, ...], name: str) -> str:
    """`NCHW` or `NHWC`: that whose grid has the proportions of the images (h, w)."""
    grids = {"NCHW": output[2:], "NHWC": output[1:3]}
    fitting = [layout for layout, grid in grids.items() if _proportional(grid, size)]
    if len(fitting) == 1:
        return fitting[0]
    raise LayerError(
        f"layer {name!r} returns {output}: which axes are height and width cannot be told from images of "
        f"{size[0]}×{size[1]}; pass layout='NCHW' or 'NHWC'"
    )


def _proportional(grid: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether one stride leads from the images to the grid in both directions, up to a cell."""
    smallest = max(pixels / (cells + 1) for cells, pixels in zip(grid, size, strict=True))
    largest = min(pixels / max(cells - 1, 1e-9) for cells, pixels in zip(grid, size, strict=True))
    return smallest <= largest


def _token_reader(tokens: int, size: tuple[int, ...], name: str) -> Callable[[Tensor], Tensor]:
    """(B, N, C) → (B, C, H, W) without the tokens in front that belong to no place."""
    patches = (patch for patch in range(1, min(size) + 1) if not size[0] % patch and not size[1] % patch)
    grids = [(size[0] // patch, size[1] // patch) for patch in patches]
    prefix, height, width = min(
        ((tokens - h * w, h, w) for h, w in grids if 0 <= tokens - h * w <= _MOST_PREFIX_TOKENS),
        default=(0, 0, 0),
    )
    if not height:
        raise LayerError(
            f"layer {name!r} returns {tokens} tokens: no grid of square patches of {size[0]}×{size[1]} "
            f"images has as many, or up to {_MOST_PREFIX_TOKENS} fewer; pass a function as layout"
        )
    return lambda tensor: tensor[:, prefix:].unflatten(1, (height, width)).permute(0, 3, 1, 2)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
    return type(value).__name__


def _without_influence(name: str) -> LayerError:
    return LayerError(
        f"layer {name!r}: no gradient of the logits reaches it; it does not lead to them, or the model's own "
        "forward switches gradients off behind it"
    )
