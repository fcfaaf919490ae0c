"""What a model saw in given picture files: classes, panels and raw maps (`ggam explain`)."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ggam.data.layouts.folder import EXTENSIONS
from ggam.data.records import DataError, FineGrainedDataset, Sample, reading
from ggam.data.transforms import ImageTransform, decode_region, upright
from ggam.drawing.layout import PrintFormat, render
from ggam.drawing.overlays import TILE_INCHES, panel
from ggam.explanations.explanation import MAP_TITLES, available_maps, checked_kinds, explain_maps
from ggam.methods.base import PREDICTED, FineGrainedModel
from ggam.system.files import replacing, write_atomic

EXPLANATIONS_FILE = "explanations.json"
_OF_A_CLASS = ("gradcam", "gradcam-features")


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


def default_maps(model: FineGrainedModel) -> tuple[str, ...]:
    """The kinds of map worth showing first: Grad-CAM, and T for models whose T reaches the classifier."""
    return tuple(kind for kind in ("gradcam", "spatial") if kind in available_maps(model))


@dataclass(frozen=True)
class Guess:
    """One of the classes that the model considers."""

    name: str
    probability: float


class Failure(NamedTuple):
    """A file that could not be explained."""

    path: Path
    reason: str


@dataclass(frozen=True)
class HeatMap:
    """One of the heat maps of a picture."""

    kind: str
    """One of `ggam.explanations.explanation.MAP_TITLES`."""
    class_name: str | None
    """The class that it speaks for; None for the attention, which is the same for all."""
    empty: bool
    """Nowhere above zero."""

    @property
    def title(self) -> str:
        """For people."""
        name = MAP_TITLES[self.kind]
        return f"{name}: {self.class_name}" if self.class_name else name


@dataclass(frozen=True)
class PanelOptions:
    """What is drawn, and how.

    Raises:
        ValueError: for a resolution that is not from 30 to 1200.
    """

    maps: tuple[str, ...] | None = None
    """Kinds of heat map, of `ggam.explanations.explanation.MAP_TITLES`; None takes `default_maps`."""
    classes: tuple[str, ...] = ()
    """Classes to explain beside the predicted one: why not these?"""
    file_format: PrintFormat = "png"
    dpi: int = 160
    """Pixels per inch; a picture in a panel is `TILE_INCHES` wide."""

    def __post_init__(self) -> None:
        if not 30 <= self.dpi <= 1200:
            raise ValueError(f"dpi={self.dpi}: expected 30 to 1200")


@dataclass(frozen=True)
class FileExplanation:
    """What `explain_files` made of one picture."""

    path: Path
    """The picture."""
    classes: tuple[Guess, ...]
    """The most probable classes, the most probable first, and then those that were asked for."""
    panel: Path
    """The picture and its heat maps, PNG or PDF."""
    maps: Path
    """`.npy`, (M, H, W) float32, not normalised."""
    shown: tuple[HeatMap, ...]
    """What the M maps are."""


def explain_files(
    model: FineGrainedModel,
    paths: Sequence[Path | str],
    out_dir: Path | str,
    *,
    options: PanelOptions | None = None,
    top: int = 3,
    batch_size: int = 32,
    on_image: Callable[[int, int], None] | None = None,
) -> tuple[list[FileExplanation], list[Failure]]:
    """Classify pictures and write what the model saw in each.

    Writes `NAME.png` or `NAME.pdf`, a panel, and `NAME.npy`, the raw maps, for each picture, and
    `explanations.json` with all that is returned. Where two pictures have the same name, or a panel
    would replace a picture that is being explained, a number is appended.

    Args:
        model: decides the crop, the normalisation and the class names.
        paths: picture files, and folders of them.
        out_dir: made if missing; earlier explanations of the same names are replaced.
        options: which maps of which classes, and the form of the panels.
        top: classes to list, at most K.
        batch_size: pictures at a time.
        on_image: called after each picture with the pictures done and the pictures in all.

    Returns:
        An entry for each picture in order, and those that could not be read.

    Raises:
        ValueError: if `top` or `batch_size` is not above 0, or for a kind of map or a class that the
            model does not have.
    """
    if top < 1 or batch_size < 1:
        raise ValueError(f"top={top}, batch_size={batch_size}: expected both to be at least 1")
    plan = _plan(model, options or PanelOptions(), top)
    out_dir = Path(out_dir)
    files = FineGrainedDataset(
        [Sample(path, 0) for path in picture_files(paths)],
        model.config.class_names,
        root=Path(),
        layout="files",
        split="test",
        transform=model.config.transform(),
    )
    targets = _targets([sample.path for sample in files.samples], out_dir, plan.options.file_format)
    explained: list[FileExplanation] = []
    failed: list[Failure] = []
    for start in range(0, len(files), batch_size):
        batch = files.subset(range(start, min(start + batch_size, len(files))))
        for entry in _explain_batch(plan, batch, targets[start:]):
            if isinstance(entry, Failure):
                failed.append(entry)
            else:
                explained.append(entry)
            if on_image is not None:
                on_image(len(explained) + len(failed), len(files))
    record = {
        "explained": [
            asdict(entry) | {"path": str(entry.path), "panel": entry.panel.name, "maps": entry.maps.name}
            for entry in explained
        ],
        "failed": [{"path": str(path), "reason": reason} for path, reason in failed],
    }
    write_atomic(out_dir / EXPLANATIONS_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return explained, failed


def guesses_of(
    probabilities: Tensor, class_names: Sequence[str], top: int, asked: Sequence[int] = ()
) -> tuple[Guess, ...]:
    """The most probable classes, the most probable first, then those of `asked` that are not among them.

    Args:
        probabilities: of a picture (K,).
        class_names: K names.
        top: how many, at most K.
        asked: classes by number.
    """
    ranked: list[int] = probabilities.topk(len(class_names)).indices.tolist()
    chosen = [index for place, index in enumerate(ranked) if place < top or index in asked]
    return tuple(Guess(class_names[index], float(probabilities[index])) for index in chosen)


def class_index(name: str, class_names: Sequence[str]) -> int:
    """The number of a class, by its name.

    Raises:
        ValueError: for an unknown name; the message has the nearest ones.
    """
    if name in class_names:
        return class_names.index(name)
    folded = {known.casefold(): known for known in class_names}
    holding = [known for key, known in folded.items() if name.casefold() in key]
    close = [folded[key] for key in get_close_matches(name.casefold(), folded, n=3)]
    nearest = (close or holding)[:3]
    hint = f"did you mean {' or '.join(map(repr, nearest))}?" if nearest else "none is close to it"
    raise ValueError(f"class {name!r} is none of the model's {len(class_names)} classes; {hint}")


def picture_files(paths: Sequence[Path | str]) -> list[Path]:
    """The given files, and those in the given folders; a folder without any stays, to be complained of."""
    found = []
    for path in map(Path, paths):
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS)
        found += inside or [path]
    return found


class _Plan(NamedTuple):
    """What to draw of every picture."""

    model: FineGrainedModel
    options: PanelOptions
    top: int
    kinds: tuple[str, ...]
    asked: tuple[int, ...]
    """Numbers of the classes to explain beside the predicted one."""


def _plan(model: FineGrainedModel, options: PanelOptions, top: int) -> _Plan:
    kinds = checked_kinds(model, options.maps or default_maps(model))
    asked = [class_index(name, model.config.class_names) for name in options.classes]
    return _Plan(model, options, top, tuple(dict.fromkeys(kinds)), tuple(dict.fromkeys(asked)))


def _explain_batch(
    plan: _Plan, batch: FineGrainedDataset, targets: Sequence[Path]
) -> Iterator[FileExplanation | Failure]:
    images: list[Tensor] = []
    failures: dict[int, Failure] = {}
    for position, sample in enumerate(batch.samples):
        try:
            images.append(batch.load(sample))
        except DataError as error:
            failures[position] = Failure(sample.path, str(error).removeprefix(f"{sample.path}: "))
    rows = zip(*_heat(plan, torch.stack(images)), strict=True) if images else iter(())
    for position, sample in enumerate(batch.samples):
        if position in failures:
            yield failures[position]
        else:
            probabilities, maps = next(rows)
            yield _write_explanation(plan, sample, probabilities, maps, targets[position])


def _heat(plan: _Plan, images: Tensor) -> tuple[Tensor, list[dict[HeatMap, np.ndarray]]]:
    """Probabilities (B, K), and the maps (H, W) of each picture, in one pass through the backbone."""
    classes = torch.tensor([PREDICTED, *plan.asked]).expand(len(images), -1)
    explanation, maps = explain_maps(plan.model, images, classes, kinds=plan.kinds)
    names = plan.model.config.class_names
    found: list[dict[HeatMap, np.ndarray]] = [{} for _ in images]
    for kind, stacks in maps.items():
        for row, stack in enumerate(stacks.float().cpu().numpy()):
            for index, heat in zip(explanation.classes[row].tolist(), stack, strict=True):
                # A map that is the same for every class, and a class that was asked for twice, is kept once.
                name = names[index] if kind in _OF_A_CLASS else None
                found[row][HeatMap(kind, name, not (heat > 0).any())] = heat
    return plan.model.config.probabilities(explanation.logits), found


def _write_explanation(
    plan: _Plan, sample: Sample, probabilities: Tensor, maps: dict[HeatMap, np.ndarray], target: Path
) -> FileExplanation:
    config, (form, dpi) = plan.model.config, (plan.options.file_format, plan.options.dpi)
    classes = guesses_of(probabilities, config.class_names, plan.top, plan.asked)
    drawn = panel(
        crop_of(sample, config.transform(), round(TILE_INCHES * dpi)),
        [(shown.title, heat) for shown, heat in maps.items()],
        "  ·  ".join(f"{guess.name} {guess.probability:.1%}" for guess in classes),
    )
    entry = FileExplanation(
        sample.path, classes, Path(f"{target}.{form}"), Path(f"{target}.npy"), tuple(maps)
    )
    write_atomic(entry.panel, render(drawn, form, dpi))
    with replacing(entry.maps) as file:
        np.save(file, np.stack(list(maps.values())))
    return entry


def _targets(paths: Sequence[Path], out_dir: Path, suffix: str) -> list[Path]:
    """Where each picture's files go, without the suffix, replacing nothing else of this call."""
    inputs = {_key(path) for path in paths}
    targets: dict[str, Path] = {}
    for path in paths:
        for number in count(1):
            target = out_dir / (path.stem if number == 1 else f"{path.stem}-{number}")
            if _key(target) not in targets and _key(Path(f"{target}.{suffix}")) not in inputs:
                targets[_key(target)] = target
                break
    return list(targets.values())


def _key(path: Path) -> str:
    """Equal for paths to the same file, also where the file system does not tell upper from lower case."""
    return str(path.resolve()).casefold()
