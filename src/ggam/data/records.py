"""What a data set is, whatever layout it was read from: samples, class names, splits."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
        raise DataError(f"{path}: cannot be read as a {what} ({_reason(error, path)})") from error


def _reason(error: Exception, path: Path) -> str:
    """An error about a file in words, without that file's name."""
    if isinstance(error, OSError) and error.strerror and str(error.filename) == str(path):
        return error.strerror
    return str(error)


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


class FineGrainedDataset(Dataset[tuple[Any, int]]):
    """Samples with their class names; item i is (picture, label).

    Args:
        samples: the pictures.
        class_names: K names, in the order of the labels.
        root: the folder the data set was read from.
        layout: the name of the layout it was read as.
        split: `train`, `val` or `test`.
        part_names: the names of the parts, in the order of `Sample.parts`.
        discriminative: for each label, the parts (indices into `part_names`) by which its class is
            told from those it is most like; only generated data knows them.
        transform: what makes a tensor of a picture; without one, items are RGB pictures.
        cache: where decoded pictures are kept for the transform.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        class_names: Sequence[str],
        *,
        root: Path,
        layout: str,
        split: str,
        part_names: Sequence[str] = (),
        discriminative: Mapping[int, tuple[int, ...]] | None = None,
        transform: ImageTransform | None = None,
        cache: PictureCache | None = None,
    ) -> None:
        self.samples = list(samples)
        self.class_names = tuple(class_names)
        self.root = root
        self.layout = layout
        self.split = split
        self.part_names = tuple(part_names)
        self.discriminative = dict(discriminative or {})
        self.transform = transform
        self.cache = cache

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
        return self._derived(self.samples, self.split, transform)

    def with_cache(self, cache: PictureCache | None) -> "FineGrainedDataset":
        """The same samples, kept decoded once they have been read."""
        dataset = self._derived(self.samples, self.split, self.transform)
        dataset.cache = cache
        return dataset

    def subset(self, indices: Sequence[int], split: str | None = None) -> "FineGrainedDataset":
        """Some of the samples, in the given order."""
        return self._derived([self.samples[i] for i in indices], split or self.split, self.transform)

    def _derived(
        self, samples: Sequence[Sample], split: str, transform: ImageTransform | None
    ) -> "FineGrainedDataset":
        return FineGrainedDataset(
            samples,
            self.class_names,
            root=self.root,
            layout=self.layout,
            split=split,
            part_names=self.part_names,
            discriminative=self.discriminative,
            transform=transform,
            cache=self.cache,
        )


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
    by_class: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        by_class[label].append(index)
    held_out: list[int] = []
    for label, indices in by_class.items():
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
    order = np.random.default_rng(seed).permutation(len(dataset))
    taken: dict[int, int] = defaultdict(int)
    kept = []
    for index in map(int, order):
        label = dataset.samples[index].label
        if taken[label] < count:
            taken[label] += 1
            kept.append(index)
    return dataset.subset(sorted(kept))
