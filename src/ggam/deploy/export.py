"""A trained model as one file, ONNX or `torch.export`, compared with the model before it is kept."""

import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ggam.deploy.file_card import FileCard
from ggam.deploy.predictor import Inference, OnnxPredictor
from ggam.explanations.explanation import explain
from ggam.methods.base import PREDICTED, FineGrainedModel, ModelConfig

Format = Literal["onnx", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
CARD_FILE = "ggam.json"
"""What the file card is called within a file of `torch.export`."""


class ExportError(ValueError):
    """A model that cannot be exported, or whose exported file does not do what the model does."""


class Tolerance(NamedTuple):
    """How far an exported file may be from the model, relative to the largest value of the batch."""

    logits: float
    map: float


FULL = Tolerance(logits=1e-4, map=1e-3)
HALF = Tolerance(logits=1e-2, map=5e-2)
"""For weights stored in 11 significant bits; the differences of many of them add up."""


class Exported(NamedTuple):
    """What was written, and how it compares with the model."""

    path: Path
    bytes: int
    maps: bool
    """Whether the file gives heat maps."""
    pictures: int
    """How many it was compared on."""
    difference: Tolerance
    """The largest differences found; 0 for the map of a file without maps."""
    seconds: float
    """A batch of these pictures through the file."""
    model_seconds: float
    """The same through the model in PyTorch, with its map if the file gives one."""


Run = Callable[[Tensor, Tensor | None], list[np.ndarray]]
"""(images, classes) → logits, probabilities and, if there is one, the map."""


def export_model(
    model: FineGrainedModel,
    out: Path | str,
    *,
    format: Format = "onnx",
    maps: bool = True,
    classes_input: bool = False,
    half: bool = False,
    image_size: int | None = None,
    pictures: Tensor | None = None,
    accuracy: dict[str, Any] | None = None,
) -> Exported:
    """Write a model into one file, after comparing what the file computes with what the model does.

    The file maps `images` (batch, 3, h, w), float32 and normalised, to `logits` (batch, K),
    `probabilities` (batch, K), calibrated, and `map` (batch, H, W), the Grad-CAM heat map, not
    normalised, for any batch. It holds the file card: class names, preprocessing, temperature.

    Args:
        model: is left as it is.
        out: the file to make; must not be there. Ends in `.onnx`, or `.pt2` for `torch`.
        format: `onnx`, or `torch` for `torch.export`.
        maps: compute the heat map. A model whose Grad-CAM has no closed form is exported without it.
        classes_input: have a second input `classes` (batch,), int64, the class to explain; below zero,
            the predicted one.
        half: store the weights of convolutions and matrix products in half precision: half the size,
            computed in float32 as before, with logits that differ in the third digit. ONNX only.
        image_size: height and width of the images in pixels; None is what the model was built for.
        pictures: (N, 3, h, w), normalised, N ≥ 2: what is compared; None compares generated noise.
        accuracy: what is known of the model, for the card (`top1`, `pictures`).

    Returns:
        What was written, and what was measured.

    Raises:
        ExportError: if the file is there already, onnx is not installed, the model cannot be traced, or
            the file differs from the model by more than `FULL`, or `HALF`; no file is left then.
    """
    out = Path(out)
    _require_new(out, format)
    if format == "torch" and half:
        raise ExportError("--half stores ONNX weights in half precision; leave it out with --format torch")
    model = _copy(model, image_size)
    if pictures is None:
        pictures = noise_pictures(model.config.image_size)
    maps = maps and _has_closed_form(model, pictures[:2])
    if classes_input and not maps:
        raise ExportError("--classes-input chooses the class of the heat map, and this file would have none")
    inference = Inference(model, maps=maps).eval()
    graph = _trace(inference, pictures[:2], classes_input)
    card = FileCard(model.config, accuracy)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        fresh = Path(folder, out.name)
        if format == "onnx":
            _write_onnx(graph, fresh, card, half=half, maps=maps)
            run = _onnx_run(fresh)
        else:
            torch.export.save(graph, fresh, extra_files={CARD_FILE: json.dumps(card.to_dict())})
            run = _eager(torch.export.load(fresh).module())
        classes = torch.arange(len(pictures)) % model.num_classes if classes_input else None
        compared = _compare(model, maps, run, pictures, classes, HALF if half else FULL)
        size = fresh.stat().st_size
        os.replace(fresh, out)
    return Exported(out, size, maps, len(pictures), *compared)


def noise_pictures(image_size: int, count: int = 4) -> Tensor:
    """Blurred noise (count, 3, image_size, image_size), for want of photographs; always the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 8, 8, generator=generator)
    return F.interpolate(coarse, size=(image_size, image_size), mode="bilinear", align_corners=False)


def _require_new(out: Path, format: Format) -> None:
    suffix = SUFFIXES[format]
    if out.suffix.lower() != suffix:
        raise ExportError(f"{out}: expected a name that ends in {suffix} for the format {format}")
    if out.exists():
        raise ExportError(f"{out}: is there already; remove it, or choose another name")
    if format == "onnx":
        for package in ("onnx", "onnxruntime", "onnxscript"):
            if find_spec(package) is None:
                raise ExportError(f"ONNX needs {package}, which is not installed; pip install 'ggam[export]'")


def config_at(config: ModelConfig, image_size: int | None) -> ModelConfig:
    """A model's configuration for images of another size in pixels; None leaves it as it is.

    Raises:
        ExportError: for a size that no image has.
    """
    if image_size is None:
        return config
    if image_size < 1:
        raise ExportError(f"image_size={image_size}: expected pixels, 1 or more")
    return replace(config, image_size=image_size)


def _copy(model: FineGrainedModel, image_size: int | None) -> FineGrainedModel:
    """The model on the CPU, for images of another size if one is given."""
    copy = deepcopy(model).cpu().eval()
    copy.config = config_at(copy.config, image_size)
    return copy


def _has_closed_form(model: FineGrainedModel, images: Tensor) -> bool:
    """Whether the heat map can be computed without autograd."""
    with torch.no_grad(), _complaints_of(images):
        output = model(images)
        return model.closed_form(output, output.logits.argmax(dim=1), "attended") is not None


def _trace(inference: Inference, images: Tensor, classes_input: bool) -> torch.export.ExportedProgram:
    if len(images) < 2:
        raise ExportError("a batch of one picture cannot stand for any batch: pass two pictures or more")
    batch = torch.export.Dim("batch")
    inputs = (images, torch.tensor([PREDICTED, 0])) if classes_input else (images,)
    with torch.no_grad(), _quietly(), _complaints_of(images):
        inference(*inputs)
        return torch.export.export(inference, inputs, dynamic_shapes=({0: batch},) * len(inputs))


@contextmanager
def _complaints_of(images: Tensor) -> Iterator[None]:
    """Whatever a foreign network, or torch.export about it, has to say, in one line."""
    try:
        yield
    except Exception as error:
        reason = (" ".join(str(error).split()) or type(error).__name__)[:300]
        size = f"{images.shape[2]} pixels"
        raise ExportError(f"this model cannot be traced for pictures of {size}: {reason}") from error


def _write_onnx(
    graph: torch.export.ExportedProgram, path: Path, card: FileCard, *, half: bool, maps: bool
) -> None:
    import onnx

    names = ["logits", "probabilities", "map"]
    try:
        with _quietly():
            program = torch.onnx.export(
                graph, dynamo=True, output_names=names if maps else names[:2], verbose=False
            )
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(_root(error)).split())[:300]
        raise ExportError(
            f"this model cannot be written as ONNX: {reason}; --format torch may take it"
        ) from error
    assert program is not None  # only the exporter before dynamo's returns nothing
    proto = program.model_proto
    if half:
        _halve(proto)
    onnx.helper.set_model_props(proto, card.to_metadata())
    onnx.save(proto, path)


def _root(error: BaseException) -> BaseException:
    """What an error was raised from in the first place: the exporter's own is a page of advice."""
    return error if error.__cause__ is None else _root(error.__cause__)


def _halve(proto: Any) -> None:
    """Store weight matrices and kernels as float16, cast back to float32 where they are used.

    Runtimes do the cast once, when they load the file.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in proto.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _onnx_run(path: Path) -> Run:
    predictor = OnnxPredictor(path, device="cpu")

    def run(images: Tensor, classes: Tensor | None) -> list[np.ndarray]:
        found = predictor.predict(images, None if classes is None else classes.tolist())
        outputs = (found.logits, found.probabilities, found.maps)
        return [output for output in outputs if output is not None]

    return run


def _eager(module: Callable[..., tuple[Tensor, ...]]) -> Run:
    def run(images: Tensor, classes: Tensor | None) -> list[np.ndarray]:
        with torch.no_grad():
            return [part.numpy() for part in module(*(x for x in (images, classes) if x is not None))]

    return run


def _compare(
    model: FineGrainedModel,
    maps: bool,
    file: Run,
    pictures: Tensor,
    classes: Tensor | None,
    allowed: Tolerance,
) -> tuple[Tolerance, float, float]:
    """Run the file and the model itself on the pictures together, and on the first one alone.

    The model is asked as people ask it, by `forward` and `explain`: not by what was traced.

    Returns:
        The largest differences, and the seconds that the file and the model took for all pictures.
    """

    def expected(images: Tensor, classes: Tensor | None) -> list[np.ndarray]:
        with torch.no_grad():
            logits = model(images).logits
        parts = [logits, model.config.probabilities(logits)]
        return [part.numpy() for part in parts + [explain(model, images, classes).maps] * maps]

    batches = [(pictures[:n], None if classes is None else classes[:n]) for n in (1, len(pictures))]
    differences = [difference(expected(*batch), file(*batch), allowed.logits) for batch in batches]
    found = Tolerance(*np.max(differences, axis=0).tolist())
    if not (found.logits <= allowed.logits and found.map <= allowed.map):  # NaN is not below either
        raise ExportError(
            f"the exported file differs from the model: logits by {found.logits:.1e} and the map by "
            f"{found.map:.1e} of the largest value, where {allowed.logits:.0e} and {allowed.map:.0e} are "
            "allowed; nothing was written"
        )
    with torch.no_grad():
        own = _seconds(lambda: explain(model, pictures, classes) if maps else model(pictures))
    return found, _seconds(lambda: file(pictures, classes)), own


def difference(model: list[np.ndarray], file: list[np.ndarray], tie: float) -> Tolerance:
    """The largest difference of the logits, and of the maps, each relative to the model's largest value.

    Args:
        model: logits (B, K), probabilities, and the map (B, H, W) if there is one, in PyTorch.
        file: the same from the exported file.
        tie: where the file chooses another class, and the model's logits of the two differ by less than
            twice this share of the largest, the maps of that image are of different classes, and are
            left out.
    """
    logits = _relative(model[0], file[0])
    if len(model) < 3:
        return Tolerance(logits, 0.0)
    rows = np.arange(len(model[0]))
    ours, theirs = model[0].argmax(axis=1), file[0].argmax(axis=1)
    gap = model[0][rows, ours] - model[0][rows, theirs]
    same = (ours == theirs) | (gap > 2 * tie * np.abs(model[0]).max())
    return Tolerance(logits, _relative(model[2][same], file[2][same]))


def _relative(expected: np.ndarray, found: np.ndarray) -> float:
    largest = float(np.abs(found - expected).max(initial=0))
    scale = float(np.abs(expected).max(initial=0))
    return largest / scale if scale > 0 else largest


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's warnings and log lines, which are for its developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
