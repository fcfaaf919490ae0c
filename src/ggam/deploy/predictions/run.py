"""From named pictures to a table of predictions, with decoding processes and in constant memory."""

import csv
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ggam.data.records import reading
from ggam.data.transforms import ImageTransform
from ggam.deploy.predictions.sources import find_pictures
from ggam.deploy.predictions.table import PredictionTable, Row
from ggam.deploy.predictor import Predicted, Predictor
from ggam.drawing.overlays import as_pictures, overlay
from ggam.system.files import replacing

_NAMED = 20


class PredictionError(ValueError):
    """Predictions that cannot be made, or that would mean nothing."""


class Unreadable(NamedTuple):
    """A picture that could not be read."""

    path: str
    reason: str


@dataclass
class Summary:
    """How far `predict_files` has come, or what it did."""

    out: Path
    predicted: int = 0
    skipped: int = 0
    """Pictures that were in the table already."""
    unreadable: int = 0
    examples: tuple[Unreadable, ...] = ()
    """The first of the unreadable ones, 20 at most."""

    @property
    def unreadable_file(self) -> Path:
        """Where all unreadable pictures are listed, if there are any."""
        return self.out.with_name(f"{self.out.name}.unreadable.csv")


def predict_files(
    predictor: Predictor,
    inputs: Sequence[str],
    out: Path,
    *,
    top: int = 5,
    maps: Path | None = None,
    batch_size: int = 32,
    workers: int = 2,
    on_batch: Callable[[Summary], None] | None = None,
) -> Summary:
    """Predict pictures into a table, a row for each: path, class_1, probability_1, class_2 and so on.

    A table that is there already is gone on with: pictures that it has are passed over. Pictures that
    cannot be read are not put into it, but listed in `NAME.unreadable.csv`, and are tried again next time.

    Args:
        predictor: the model.
        inputs: pictures, folders, patterns and manifests, see `ggam.deploy.predictions.sources`.
        out: `.csv`, `.jsonl` or `.parquet`, see `ggam.deploy.predictions.table`.
        top: classes to list, the most probable first, at most K; probabilities are calibrated.
        maps: a folder for the Grad-CAM map of each picture's first class: under the picture's own path,
            an overlay `….png` and the raw map `….npy`, (H, W) float32.
        batch_size: pictures at a time.
        workers: processes that read pictures; 0 reads them here.
        on_batch: called after each batch.

    Raises:
        PredictionError: for numbers that make no sense, maps from a model without any, or logits that are
            not finite.
        SourceError: if an input is not there, or has no pictures.
        TableError: if the table was written by another model or with other settings.
        OSError: if the table cannot be written.
    """
    if top < 1 or batch_size < 1 or workers < 0:
        raise PredictionError(
            f"top={top}, batch_size={batch_size}, workers={workers}: expected 1 or more, and workers ≥ 0"
        )
    if maps is not None:
        _check_maps(predictor, inputs, maps)
    pictures = find_pictures(inputs)
    top = min(top, len(predictor.class_names))
    pairs = ((f"class_{place}", f"probability_{place}") for place in range(1, top + 1))
    origin = {"model": predictor.fingerprint()[:16], "top": top, "maps": maps is not None}
    table = PredictionTable(out, ["path", *(name for pair in pairs for name in pair)], origin)
    summary = Summary(out)
    summary.unreadable_file.unlink(missing_ok=True)
    try:
        for batch in _load(_new_ones(pictures, table, summary), predictor.transform, batch_size, workers):
            if batch.images is not None:
                predicted = predictor.predict(batch.images)
                _check_finite(predicted, batch.paths)
                if maps is not None:
                    _write_maps(maps, batch.paths, batch.images, predicted, predictor.transform)
                table.append(_rows(batch.paths, predicted, predictor.class_names, top))
                summary.predicted += len(batch.paths)
            _note_unreadable(summary, batch.unreadable)
            if on_batch is not None:
                on_batch(summary)
    except BaseException:
        table.close()
        raise
    table.finish()
    return summary


class _Batch(NamedTuple):
    paths: list[str]
    images: Tensor | None
    """(B, 3, h, w); None where no picture of the batch could be read."""
    unreadable: list[Unreadable]


class _Pictures(Dataset[tuple[str, Tensor | str]]):
    """Pictures addressed by their paths: (path, tensor), or (path, why it cannot be read)."""

    def __init__(self, transform: ImageTransform) -> None:
        self._transform = transform

    def __getitem__(self, path: str) -> tuple[str, Tensor | str]:
        try:
            with warnings.catch_warnings(), reading(Path(path)), Image.open(path) as image:
                warnings.simplefilter("ignore")  # about odd metadata, mostly
                return path, self._transform(image)
        except Exception as error:  # one odd file of a million must not end the others
            reason = str(error).removeprefix(f"{path}: ").replace(f" {path!r}", "")
            return path, " ".join(reason.split()) or type(error).__name__


def _load(paths: Iterable[str], transform: ImageTransform, batch_size: int, workers: int) -> Iterator[_Batch]:
    """Batches in the order of the paths, which are asked for only as far as the processes need them."""
    remaining = iter(paths)
    batches = iter(lambda: list(islice(remaining, batch_size)), [])
    loader = DataLoader(
        _Pictures(transform),
        batch_sampler=batches,  # pyright: ignore[reportArgumentType]
        collate_fn=_collate,
        num_workers=workers,
        worker_init_fn=_ignore_interrupts,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise PredictionError(
            "a process that reads pictures was killed, most likely for want of memory; what was predicted is "
            "kept: run the same command again with fewer --workers"
        ) from error


def _collate(items: list[tuple[str, Tensor | str]]) -> _Batch:
    good = [(path, found) for path, found in items if isinstance(found, Tensor)]
    bad = [Unreadable(path, found) for path, found in items if isinstance(found, str)]
    images = torch.stack([image for _, image in good]) if good else None
    return _Batch([path for path, _ in good], images, bad)


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C ends the parent, which ends its processes; their tracebacks would say nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _new_ones(paths: Iterable[str], table: PredictionTable, summary: Summary) -> Iterator[str]:
    for path in paths:
        if path in table:
            summary.skipped += 1
        else:
            yield path


def _rows(paths: Sequence[str], predicted: Predicted, names: Sequence[str], top: int) -> Iterator[Row]:
    order = np.argsort(-predicted.probabilities, axis=1, kind="stable")[:, :top]
    for path, places, probabilities in zip(paths, order, predicted.probabilities, strict=True):
        row: list[str | float] = [path]
        for place in places:
            row += [names[place], float(f"{probabilities[place]:.6g}")]
        yield row


def _check_finite(predicted: Predicted, paths: Sequence[str]) -> None:
    broken = np.flatnonzero(~np.isfinite(predicted.logits).all(axis=1))
    if len(broken):
        raise PredictionError(
            f"{paths[broken[0]]}: the model's logits are not finite; its weights are damaged or its "
            "training diverged"
        )


def _check_maps(predictor: Predictor, inputs: Sequence[str], maps: Path) -> None:
    if predictor.maps == "none":
        raise PredictionError("--maps: this model gives no heat maps; export it with them, or leave it out")
    for given in inputs:
        if Path(given).is_dir() and maps.resolve().is_relative_to(Path(given).resolve()):
            raise PredictionError(
                f"--maps {maps}: lies in {given}, whose pictures it would mix with; choose another"
            )


def _write_maps(
    folder: Path, paths: Sequence[str], images: Tensor, predicted: Predicted, transform: ImageTransform
) -> None:
    assert predicted.maps is not None  # checked before anything was predicted
    crops = as_pictures(images, transform.mean, transform.std, transform.image_size)
    with ThreadPoolExecutor() as pool:  # compressing the overlays is most of the work
        list(pool.map(_write_map, [folder / map_name(path) for path in paths], crops, predicted.maps))


def _write_map(target: Path, crop: Image.Image, heat: np.ndarray) -> None:
    with replacing(Path(f"{target}.png")) as file:
        overlay(crop, heat).save(file, "PNG")
    with replacing(Path(f"{target}.npy")) as file:
        np.save(file, heat)


def map_name(path: str) -> Path:
    """Where a picture's maps lie in their folder, without the last suffix: its own path, kept inside."""
    pure = Path(path)
    return Path(*("__" if part == ".." else part for part in pure.parts if part != pure.anchor))


def _note_unreadable(summary: Summary, found: Sequence[Unreadable]) -> None:
    if not found:
        return
    summary.examples += tuple(found[: _NAMED - len(summary.examples)])
    header = [] if summary.unreadable else [Unreadable._fields]
    with summary.unreadable_file.open("a", encoding="utf-8", errors="backslashreplace", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([*header, *found])
    summary.unreadable += len(found)
