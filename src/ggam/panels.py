"""What a model saw in given picture files: classes, panels and raw maps (`ggam explain`)."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ggam.data.folder import EXTENSIONS
from ggam.data.records import DataError, FineGrainedDataset, Sample, reading
from ggam.data.transforms import ImageTransform, decode_region, upright
from ggam.explanation import Explanation, explain
from ggam.files import write_atomic
from ggam.methods.base import FineGrainedModel
from ggam.overlays import panel

EXPLANATIONS_FILE = "explanations.json"
_TILE = 320


def crop_of(sample: Sample, transform: ImageTransform, size: int | None = None) -> Image.Image:
    """What an evaluation transform shows the model of a sample, RGB and not normalised.

    Args:
        sample: the picture.
        transform: its centre crop is taken, also if it augments.
        size: pixels along each side; None takes the size that the model sees.

    Raises:
        DataError: if the picture cannot be read.
    """
    with reading(sample.path), Image.open(sample.path) as stored:
        image = upright(stored)
        width, height = image.size
        region = transform.region(width, max(1, height - sample.banner))
        return decode_region(image, region, size or transform.image_size)


def shown_maps(model: FineGrainedModel, explanation: Explanation) -> dict[str, Tensor]:
    """The heat maps worth showing, by name, each (B, H, W), on the CPU.

    `gradcam` is the Grad-CAM map of the explained class; `attention` the spatial attention T, for
    models whose T reaches the classifier.
    """
    maps = {"gradcam": explanation.maps.float().cpu()}
    if explanation.attention is not None and model.config.options.get("spatial", True):
        maps["attention"] = explanation.attention.spatial.squeeze(1).float().cpu()
    return maps


class Guess(NamedTuple):
    """One of the classes that the model considers."""

    name: str
    probability: float


class Failure(NamedTuple):
    """A file that could not be explained."""

    path: Path
    reason: str


@dataclass(frozen=True)
class FileExplanation:
    """What `explain_files` made of one picture."""

    path: Path
    """The picture."""
    classes: tuple[Guess, ...]
    """The most probable classes, the most probable first."""
    panel: Path
    """The picture and its heat maps, PNG."""
    maps: Path
    """`.npy`, (M, H, W) float32, not normalised."""
    map_names: tuple[str, ...]
    """What the M maps are: `gradcam` of the first class, and `attention` T for models that have it."""


def explain_files(
    model: FineGrainedModel,
    paths: Sequence[Path | str],
    out_dir: Path | str,
    *,
    top: int = 3,
    batch_size: int = 32,
    on_image: Callable[[int, int], None] | None = None,
) -> tuple[list[FileExplanation], list[Failure]]:
    """Classify pictures and write what the model saw in each.

    Writes `NAME.png`, a panel, and `NAME.npy`, the raw maps, for each picture, and
    `explanations.json` with all that is returned. Where two pictures have the same name, or a panel
    would replace a picture that is being explained, a number is appended.

    Args:
        model: decides the crop, the normalisation and the class names.
        paths: picture files, and folders of them.
        out_dir: made if missing; earlier explanations of the same names are replaced.
        top: classes to list, at most K.
        batch_size: pictures at a time.
        on_image: called after each picture with the pictures done and the pictures in all.

    Returns:
        An entry for each picture in order, and those that could not be read.

    Raises:
        ValueError: if `top` or `batch_size` is not above 0.
    """
    if top < 1 or batch_size < 1:
        raise ValueError(f"top={top}, batch_size={batch_size}: expected both to be at least 1")
    out_dir = Path(out_dir)
    files = FineGrainedDataset(
        [Sample(path, 0) for path in _pictures(paths)],
        model.config.class_names,
        root=Path(),
        layout="files",
        split="test",
        transform=model.config.transform(),
    )
    targets = _targets([sample.path for sample in files.samples], out_dir)
    explained: list[FileExplanation] = []
    failed: list[Failure] = []
    for start in range(0, len(files), batch_size):
        batch = files.subset(range(start, min(start + batch_size, len(files))))
        for entry in _explain_batch(model, batch, targets[start:], top):
            if isinstance(entry, Failure):
                failed.append(entry)
            else:
                explained.append(entry)
            if on_image is not None:
                on_image(len(explained) + len(failed), len(files))
    record = {
        "explained": [_record(entry) for entry in explained],
        "failed": [{"path": str(path), "reason": reason} for path, reason in failed],
    }
    write_atomic(out_dir / EXPLANATIONS_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return explained, failed


def guesses_of(logits: Tensor, class_names: Sequence[str], top_k: int) -> tuple[Guess, ...]:
    """The min(top_k, K) most probable classes of one picture's logits (K,), the most probable first."""
    best = logits.float().softmax(dim=0).topk(min(top_k, len(class_names)))
    pairs = zip(best.indices, best.values, strict=True)
    return tuple(Guess(class_names[int(index)], float(probability)) for index, probability in pairs)


def _pictures(paths: Sequence[Path | str]) -> list[Path]:
    """The given files, and those in the given folders; a folder without any stays, to be complained of."""
    found = []
    for path in map(Path, paths):
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS)
        found += inside or [path]
    return found


def _explain_batch(
    model: FineGrainedModel, batch: FineGrainedDataset, targets: Sequence[Path], top: int
) -> Iterator[FileExplanation | Failure]:
    images: list[Tensor] = []
    failures: dict[int, Failure] = {}
    for position, sample in enumerate(batch.samples):
        try:
            images.append(batch.load(sample))
        except DataError as error:
            failures[position] = Failure(sample.path, str(error).removeprefix(f"{sample.path}: "))
    explanation = explain(model, torch.stack(images)) if images else None
    row = 0
    for position, sample in enumerate(batch.samples):
        if explanation is None or position in failures:
            yield failures[position]
        else:
            yield _write_explanation(model, sample, explanation, row, targets[position], top)
            row += 1


def _write_explanation(
    model: FineGrainedModel, sample: Sample, explanation: Explanation, row: int, target: Path, top: int
) -> FileExplanation:
    classes = guesses_of(explanation.logits[row], model.config.class_names, top)
    maps = {kind: stack[row].numpy() for kind, stack in shown_maps(model, explanation).items()}
    titles = {"gradcam": f"Grad-CAM: {classes[0].name}", "attention": "Attention T"}
    drawn = panel(
        crop_of(sample, model.config.transform(), max(_TILE, model.config.image_size)),
        [(titles[kind], heat) for kind, heat in maps.items()],
        "  ·  ".join(f"{guess.name} {guess.probability:.1%}" for guess in classes),
    )
    png, raw = io.BytesIO(), io.BytesIO()
    drawn.save(png, "PNG")
    np.save(raw, np.stack(list(maps.values())))
    entry = FileExplanation(sample.path, classes, Path(f"{target}.png"), Path(f"{target}.npy"), tuple(maps))
    write_atomic(entry.panel, png.getvalue())
    write_atomic(entry.maps, raw.getvalue())
    return entry


def _record(entry: FileExplanation) -> dict[str, Any]:
    return {
        "path": str(entry.path),
        "classes": [guess._asdict() for guess in entry.classes],
        "panel": entry.panel.name,
        "maps": entry.maps.name,
        "map_names": entry.map_names,
    }


def _targets(paths: Sequence[Path], out_dir: Path) -> list[Path]:
    """Where each picture's files go, without the suffix, replacing nothing else of this call."""
    inputs = {_key(path) for path in paths}
    taken: set[str] = set()
    targets = []
    for path in paths:
        names = (path.stem if number == 1 else f"{path.stem}-{number}" for number in count(1))
        free = next(
            name
            for name in names
            if _key(out_dir / name) not in taken and _key(out_dir / f"{name}.png") not in inputs
        )
        taken.add(_key(out_dir / free))
        targets.append(out_dir / free)
    return targets


def _key(path: Path) -> str:
    """Equal for paths to the same file, also where the file system does not tell upper from lower case."""
    return str(path.resolve()).casefold()
