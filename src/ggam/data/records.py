"""What a data set is, whatever layout it was read from: samples, class names, splits."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ggam.data.cache import PictureCache
from ggam.data.transforms import ImageTransform, as_rgb, upright


class DataError(ValueError):
    """A data set, or a file of one, that is not as it should be."""


@contextmanager
def reading(path: Path, what: str = "picture") -> Iterator[None]:
    """A block that reads one file with Pillow.

    Raises:
        DataError: naming the file, whatever Pillow raises about it.
    """
    try:
        yield
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.strerror and str(error.filename) == str(path):
            reason = error.strerror  # the file is named before it
        raise DataError(f"{path}: cannot be read as a {what} ({reason})") from error


class Box(NamedTuple):
    """A bounding box in pixels of the picture."""

    x: float
    """Left edge."""
    y: float
    """Top edge."""
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture and what is known of it. Coordinates are pixels of the picture as stored."""

    path: Path
    label: int
    """Index into the data set's class names."""
    box: Box | None = None
    parts: tuple[tuple[float, float] | None, ...] = ()
    """(x, y) of each of the data set's parts, None where it is not visible; empty if unknown."""
    mask: Path | None = None
    """A picture of the same size, above 127 on the object."""
    banner: int = 0
    """Rows at the bottom that are not photograph (FGVC-Aircraft's copyright line)."""


@dataclass(eq=False, repr=False)
class FineGrainedDataset(Dataset[tuple[Any, int]]):
    """Samples with their class names; item i is (picture, label)."""

    samples: list[Sample]
    class_names: tuple[str, ...]
    """K names, in the order of the labels."""
    _: KW_ONLY
    root: Path
    """The folder the data set was read from."""
    layout: str
    """The name of the layout it was read as."""
    split: str
    """`train`, `val` or `test`."""
    part_names: tuple[str, ...] = ()
    """The names of the parts, in the order of `Sample.parts`."""
    discriminative: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """For each label, the parts (indices into `part_names`) by which its class is told from those it is
    most like; only generated data knows them."""
    transform: ImageTransform | None = None
    """What makes a tensor of a picture; without one, items are RGB pictures."""
    cache: PictureCache | None = None
    """Where decoded pictures are kept for the transform."""

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        sample = self.samples[index]
        return self.load(sample), sample.label

    def load(self, sample: Sample, rng: np.random.Generator | None = None) -> Any:
        """The sample's picture, through the transform.

        Raises:
            DataError: if the picture cannot be read; the message names the file.
        """
        with reading(sample.path):
            if self.cache is not None and self.transform is not None:
                pixels = self.cache.pixels(sample.path, self.transform.resized_side, banner=sample.banner)
                return self.transform.crop_resized(pixels, rng=rng)
            with Image.open(sample.path) as image:
                if self.transform is None:
                    return as_rgb(upright(image)).copy()
                return self.transform(image, banner=sample.banner, rng=rng)

    @property
    def labels(self) -> list[int]:
        """The label of each sample."""
        return [sample.label for sample in self.samples]

    def with_transform(self, transform: ImageTransform | None) -> "FineGrainedDataset":
        """The same samples through another transform."""
        return replace(self, transform=transform)

    def with_cache(self, cache: PictureCache | None) -> "FineGrainedDataset":
        """The same samples, kept decoded once they have been read."""
        return replace(self, cache=cache)

    def subset(self, indices: Sequence[int], split: str | None = None) -> "FineGrainedDataset":
        """Some of the samples, in the given order."""
        return replace(self, samples=[self.samples[i] for i in indices], split=split or self.split)


def readable_names(names: Sequence[str]) -> tuple[str, ...]:
    """Class names as people write them: "Black footed Albatross" for "001.Black_footed_Albatross".

    Underscores become blanks. A leading number goes only where every class has one before a letter,
    so that "737-200" stays; names stay as they are where two of them would become the same.
    """
    plain = [name.replace("_", " ").strip() for name in names]
    bare = [re.sub(r"^\d+[. -]+(?=[^\W\d])", "", name) for name in plain]
    numbered = all(short != name for short, name in zip(bare, plain, strict=True))
    for candidate in (bare, plain) if numbered else (plain,):
        if len(set(candidate)) == len(names) and all(candidate):
            return tuple(candidate)
    return tuple(names)


def stratified_split(labels: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Split indices so that each class gives the same share, at least one picture, but never its last.

    Args:
        labels: the label of each sample.
        fraction: the share of the second part, from 0 to below 1.
        seed: which pictures are drawn.

    Returns:
        The kept and the held-out indices, each in ascending order.
    """
    if not 0 <= fraction < 1:
        raise DataError(f"fraction {fraction}: expected a share from 0 to below 1")
    held_out: list[int] = []
    for label, indices in _by_class(labels, range(len(labels))).items():
        count = min(max(1, round(fraction * len(indices))), len(indices) - 1) if fraction else 0
        order = np.random.default_rng((seed, label)).permutation(len(indices))
        held_out += [indices[i] for i in order[:count]]
    chosen = set(held_out)
    return [i for i in range(len(labels)) if i not in chosen], sorted(held_out)


def hold_out(
    dataset: FineGrainedDataset, fraction: float, seed: int
) -> tuple[FineGrainedDataset, FineGrainedDataset]:
    """Split a validation part off a training set, stratified; with fraction 0 it is empty."""
    kept, held_out = stratified_split(dataset.labels, fraction, seed)
    return dataset.subset(kept), dataset.subset(held_out, "val")


def limit_per_class(dataset: FineGrainedDataset, count: int, seed: int) -> FineGrainedDataset:
    """At most `count` pictures of each class, drawn by seed: few-shot training sets."""
    if count < 1:
        raise DataError(f"{count} pictures per class: expected at least 1")
    order = np.random.default_rng(seed).permutation(len(dataset)).tolist()
    classes = _by_class(dataset.labels, order).values()
    return dataset.subset(sorted(index for indices in classes for index in indices[:count]))


def _by_class(labels: Sequence[int], order: Iterable[int]) -> dict[int, list[int]]:
    """The indices of each label, in the given order."""
    found: dict[int, list[int]] = defaultdict(list)
    for index in order:
        found[labels[index]].append(index)
    return found
