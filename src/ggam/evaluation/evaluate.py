"""One pass over a data set: predictions, and if wanted the heat maps at hardly any extra cost."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from ggam.backbones.build import eval_mode
from ggam.data.loaders import eval_loader, without_traceback
from ggam.data.records import DataError, FineGrainedDataset
from ggam.evaluation.accuracy import EvalReport, EvaluationError, Prediction, predictions_from
from ggam.evaluation.calibration import calibration_error
from ggam.explanations.explanation import explain
from ggam.methods.base import FineGrainedModel

Precision = Literal["fp32", "bf16"]


def evaluate(
    model: FineGrainedModel,
    dataset: FineGrainedDataset,
    *,
    batch_size: int = 64,
    workers: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    maps: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
) -> EvalReport:
    """Classify every picture of a data set, in eval mode; the model's own mode is restored.

    Args:
        model: moved to `device` if one is given.
        dataset: with its evaluation transform; its classes must be the model's.
        batch_size: pictures at a time; every picture counts, the last batch may be smaller.
        workers: processes that read pictures; 0 reads them here.
        device: None leaves the model where it is.
        precision: `bf16` runs the backbone in half precision; the head always runs in float32.
        maps: also keep the Grad-CAM heat map of each picture's predicted class.
        on_batch: called after each batch with the pictures done and the pictures in all.

    Raises:
        EvaluationError: if there are no pictures, the transform is missing or random, the classes
            differ from the model's, or the logits are not finite.
        DataError: if a picture cannot be read.
    """
    check_fits(model, dataset)
    if device is not None:
        model.to(device)
    predictions: list[Prediction] = []
    losses: list[Tensor] = []
    heat: list[np.ndarray] = []
    temperature = model.config.temperature
    uncalibrated: list[Tensor] = []
    for images, labels, names in batches_of(model, dataset, batch_size=batch_size, workers=workers):
        with autocast(model, precision):
            logits, found = _asked(model, images, maps)
        predictions += predictions_from(logits, labels, names, temperature=temperature)
        logits = logits.cpu().double()
        losses.append(F.cross_entropy(logits, labels, reduction="none"))
        uncalibrated.append(logits.softmax(dim=1).max(dim=1).values)
        if found is not None:
            heat.append(found.float().cpu().numpy())
        if on_batch is not None:
            on_batch(len(predictions), len(dataset))
    return EvalReport(
        class_names=dataset.class_names,
        predictions=tuple(predictions),
        loss=torch.cat(losses).mean().item(),
        temperature=temperature,
        uncalibrated_ece=calibration_error(
            torch.cat(uncalibrated).numpy(), np.array([p.rank == 1 for p in predictions])
        ),
        maps=np.concatenate(heat) if maps else None,
    )


def check_fits(model: FineGrainedModel, dataset: FineGrainedDataset) -> None:
    """Refuse a data set that this model cannot be evaluated on.

    Raises:
        EvaluationError: as `evaluate` says.
    """
    if not len(dataset):
        raise EvaluationError(f"{dataset.root}: the {dataset.split} split has no pictures to evaluate")
    if dataset.transform is None or dataset.transform.augment:
        raise EvaluationError(f"{dataset.root}: evaluation needs a transform with augment=False")
    known, given = model.config.class_names, dataset.class_names
    if len(known) != len(given):
        raise EvaluationError(
            f"{dataset.root} has {len(given)} classes, the model {len(known)}: evaluate it on the data "
            "set it was trained on, or one with the same class folders"
        )
    named = known != tuple(map(str, range(len(known))))
    for theirs, own in zip(given, known, strict=True):
        if named and theirs != own:
            raise EvaluationError(
                f"{dataset.root}: class {theirs!r} stands where the model has {own!r}; the data set must "
                "have the model's classes, with the same names"
            )


def relative_path(path: Path, root: Path) -> str:
    """A picture's name in tables: its path below the data set's folder, with forward slashes."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def batches_of(
    model: FineGrainedModel, dataset: FineGrainedDataset, *, batch_size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """A data set's pictures (B, 3, h, w) on a model's device, in order, their labels (B,) and their names.

    Raises:
        DataError: if a picture cannot be read; in one line.
    """
    device = next(model.parameters()).device
    samples = iter(dataset.samples)
    for images, labels in in_one_line(eval_loader(dataset, batch_size=batch_size, workers=workers)):
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        names = [relative_path(sample.path, dataset.root) for sample in islice(samples, len(labels))]
        yield images, labels, names


def autocast(model: FineGrainedModel, precision: Precision) -> torch.autocast:
    """A block in which a model computes in a precision."""
    device = next(model.parameters()).device
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def in_one_line(loader: DataLoader[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches; an error of a worker process in one line."""
    try:
        yield from loader
    except DataError as error:
        raise without_traceback(error) from error


def _asked(model: FineGrainedModel, images: Tensor, maps: bool) -> tuple[Tensor, Tensor | None]:
    """The logits (B, K), and if wanted the Grad-CAM maps (B, H, W)."""
    if maps:
        explanation = explain(model, images)
        return explanation.logits, explanation.maps
    with torch.inference_mode(), eval_mode(model):
        return model(images).logits, None
