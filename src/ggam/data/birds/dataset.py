"""A generated set of fine-grained birds, written in the layout of CUB-200-2011.

Only in such a set is it known for certain which part tells a class from the classes like it.
"""

import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ggam.data.birds.anatomy import PARTS
from ggam.data.birds.light import LARGEST
from ggam.data.birds.photo import Chance, Photo, photograph
from ggam.data.birds.scenery import Scene, scene
from ggam.data.birds.species import MOST_SPECIES, Species, discriminative_parts, species
from ggam.data.records import DataError

PRESETS: dict[str, dict[str, Any]] = {
    "cub": {
        "classes": 200,
        "train_per_class": Fraction(5994, 200),
        "test_per_class": Fraction(5794, 200),
        "image_size": 433,
    },
}
"""Arguments of `synthesize` for a set as large as a published one: 433² pixels are those of 500×375."""
_JPEG_QUALITY = 90
_README = """\
Generated pictures of birds that do not exist, in the layout of CUB-200-2011.
Made by ggam.data.birds.dataset.synthesize with {options}.
parts/discriminative_parts.txt has, for each class, the numbers of the parts by which it is told from
the classes that differ from it in one part only.
"""


def synthesize(
    out: Path | str,
    *,
    classes: int = 8,
    train_per_class: int | Fraction = 60,
    test_per_class: int | Fraction = 30,
    image_size: int = 256,
    seed: int = 0,
    background_bias: float = 0.0,
    occlusion: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write a generated data set; the same arguments give the same bytes.

    A picture depends on the seed, its class, its split and its number only: more classes or pictures
    leave the others as they are. With another `background_bias` or `occlusion` the same birds
    sit in the same poses, in other places or behind a twig.

    Args:
        out: the folder to write; it appears at the end, in one step.
        classes: number of species, from 2 to 500.
        train_per_class: training pictures of each; of a fraction, each gets the whole number below or
            above, spread evenly so that k species have ⌊k · fraction⌋.
        test_per_class: test pictures of each, alike.
        image_size: height and width of the pictures, in pixels, from 32 to 1024.
        seed: of everything random, from 0.
        background_bias: the share of a class's training pictures that show that class's own place;
            of its test pictures, the same share shows another class's. The rest show any place.
        occlusion: the share of pictures with a leafy twig in front of the bird. A part behind it is
            not visible, and the mask leaves it out.
        progress: called after each picture with how many are done, and how many there will be.

    Returns:
        How many pictures there are.

    Raises:
        DataError: for a number out of its range, or if `out` is there and is not an empty folder.
    """
    plan = _Plan(classes, train_per_class, test_per_class, image_size, seed, background_bias, occlusion)
    out = Path(out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: already there; choose another folder, or remove this one first")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        fresh = Path(temporary, "fresh")
        _write(fresh, plan, progress or (lambda done, total: None))
        os.replace(fresh, out)
    return plan.total


@dataclass(frozen=True)
class _Plan:
    """The arguments of `synthesize`, checked."""

    classes: int
    train_per_class: int | Fraction
    test_per_class: int | Fraction
    image_size: int
    seed: int
    background_bias: float
    occlusion: float

    def __post_init__(self) -> None:
        ranges = {
            "classes": (2, MOST_SPECIES),
            "train_per_class": (1, 100_000),
            "test_per_class": (1, 100_000),
            "image_size": (32, LARGEST),
            "seed": (0, 2**32 - 1),
            "background_bias": (0, 1),
            "occlusion": (0, 1),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise DataError(f"{name} {getattr(self, name)}: expected {low} to {high}")

    @property
    def total(self) -> int:
        """How many pictures there are."""
        return int(self.classes * self.train_per_class) + int(self.classes * self.test_per_class)

    def pictures(self) -> Iterator[tuple[int, bool, int]]:
        """The label of each picture, whether it is for training, and its number among those alike in both."""
        for label in range(self.classes):
            for training, share in ((True, self.train_per_class), (False, self.test_per_class)):
                for number in range(int((label + 1) * share) - int(label * share)):
                    yield label, training, number

    def photo(self, member: Species, label: int, training: bool, number: int) -> Photo:
        """Draw one picture."""
        key = (self.seed, label, int(training), number)
        place, bird, scenery, occluder = (np.random.default_rng((*key, stream)) for stream in range(1, 5))
        return photograph(
            member,
            self._place(label, training, place),
            self.image_size,
            Chance(bird, scenery, occluder),
            occluded=bool(occluder.random() < self.occlusion),
        )

    def _place(self, label: int, training: bool, rng: np.random.Generator) -> Scene:
        if rng.random() >= self.background_bias:
            return scene(rng)
        owner = label if training else (label + int(rng.integers(1, self.classes))) % self.classes
        return scene(np.random.default_rng((self.seed, owner)))


def _write(root: Path, plan: _Plan, progress: Callable[[int, int], None]) -> None:
    members = species(plan.classes)
    folders = [f"{i:03d}.{member.name.replace(' ', '_')}" for i, member in enumerate(members, start=1)]
    for folder in folders:
        (root / "images" / folder).mkdir(parents=True)
        (root / "segmentations" / folder).mkdir(parents=True)
    lists: dict[str, list[str]] = defaultdict(list)
    places: list[str] = []
    for done, (label, training, number) in enumerate(plan.pictures(), start=1):
        name = f"{folders[label]}/{folders[label][4:]}_{'train' if training else 'test'}_{number + 1:04d}"
        photo = plan.photo(members[label], label, training, number)
        photo.image.save(root / "images" / f"{name}.jpg", quality=_JPEG_QUALITY)
        photo.mask.save(root / "segmentations" / f"{name}.png")
        left, top, right, bottom = photo.mask.getbbox() or (0, 0, 0, 0)
        lists["images.txt"].append(f"{name}.jpg")
        lists["image_class_labels.txt"].append(str(label + 1))
        lists["train_test_split.txt"].append(str(int(training)))
        lists["bounding_boxes.txt"].append(f"{left:.1f} {top:.1f} {right - left:.1f} {bottom - top:.1f}")
        for part, place in enumerate(photo.parts.values(), start=1):
            at = "0.0 0.0 0" if place is None else f"{place.real:.1f} {place.imag:.1f} 1"
            places.append(f"{done} {part} {at}\n")
        progress(done, plan.total)
    lists["classes.txt"] = folders
    lists["parts/parts.txt"] = list(PARTS)
    lists["parts/discriminative_parts.txt"] = [
        " ".join(map(str, _numbers(parts))) for parts in discriminative_parts(members)
    ]
    (root / "parts").mkdir()
    for name, lines in lists.items():
        numbered = (f"{number} {line}\n" for number, line in enumerate(lines, start=1))
        (root / name).write_text("".join(numbered), "utf-8")
    (root / "parts" / "part_locs.txt").write_text("".join(places), "utf-8")
    options = ", ".join(f"{name}={value}" for name, value in vars(plan).items())
    (root / "README.txt").write_text(_README.format(options=options), "utf-8")


def _numbers(marked: list[str]) -> list[int]:
    """The numbers of the parts on which these marks are; eyes and wings are two parts each."""
    names = {part for mark in marked for part in (mark, f"left {mark}", f"right {mark}")}
    return [number for number, part in enumerate(PARTS, start=1) if part in names]
