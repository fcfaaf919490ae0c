"""The layout of CUB-200-2011, which the generated birds share.

classes.txt              1 001.Black_footed_Albatross
images.txt               1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg
image_class_labels.txt   1 1
train_test_split.txt     1 0                        (1 is training)
images/                  the pictures
bounding_boxes.txt       1 60.0 27.0 325.0 304.0    (x, y, width, height; may be left out)
parts/parts.txt          1 back                     (may be left out, as all that follows)
parts/part_locs.txt      1 1 312.0 182.0 1          (image, part, x, y, visible)
segmentations/           masks as PNG, under the names of the pictures
parts/discriminative_parts.txt   1 5 9              (class, its parts; generated data only)
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import NoReturn

import numpy as np

from ggam.data.records import Box, DataError, FineGrainedDataset, Sample, readable_names

REQUIRED = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt", "images")


def missing_files(root: Path) -> tuple[str, ...] | None:
    """What a folder lacks to be of this layout; None if nothing in it speaks for it."""
    missing = _absent(root)
    # A classes.txt may lie beside anyone's class folders, and a hierarchy.txt makes it NABirds.
    telling = set(REQUIRED) - {"images", "classes.txt"} - set(missing)
    return missing if telling and not (root / "hierarchy.txt").exists() else None


def read(root: Path, split: str, *, seed: int = 0) -> FineGrainedDataset:
    """Read one split.

    Args:
        root: the folder that holds images.txt.
        split: `train` or `test`.
        seed: not used: the layout comes with its split.

    Raises:
        DataError: if a list is missing, has a line of another form, or speaks of a picture, class or
            part that is not in the others.
    """
    del seed
    if missing := _absent(root):
        raise DataError(f"{root}: {', '.join(missing)} is missing; a CUB folder has {', '.join(REQUIRED)}")
    classes = _pairs(root / "classes.txt")
    label_of = {identity: label for label, identity in enumerate(classes)}
    paths = _pairs(root / "images.txt")
    class_of = _column(root / "image_class_labels.txt", paths, "images.txt")
    in_train = _column(root / "train_test_split.txt", paths, "images.txt")
    boxes = _boxes(root / "bounding_boxes.txt", paths)
    part_names, parts = _parts(root, paths)
    masks = _masks(root / "segmentations")
    samples = []
    for identity, path in paths.items():
        if class_of[identity] not in label_of:
            _refuse(root / "image_class_labels.txt", f"class {class_of[identity]} is not in classes.txt")
        if bool(in_train[identity]) == (split == "train"):
            mask = str(Path(path).with_suffix(".png"))
            samples.append(
                Sample(
                    path=root / "images" / path,
                    label=label_of[class_of[identity]],
                    box=boxes.get(identity),
                    parts=parts.get(identity, ()),
                    mask=root / "segmentations" / mask if mask in masks else None,
                )
            )
    if not samples:
        _refuse(root / "train_test_split.txt", f"no picture belongs to the {split} split")
    return FineGrainedDataset(
        samples,
        readable_names(list(classes.values())),
        root=root,
        layout="cub",
        split=split,
        part_names=list(part_names.values()),
        discriminative=_discriminative(root, label_of, part_names),
    )


def _absent(root: Path) -> tuple[str, ...]:
    return tuple(name for name in REQUIRED if not (root / name).exists())


def _refuse(path: Path, reason: str, line: int | None = None) -> NoReturn:
    raise DataError(f"{path}{'' if line is None else f', line {line}'}: {reason}")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        _refuse(path, f"cannot be read ({error})")


def _pairs(path: Path) -> dict[int, str]:
    """A list of `number rest` by its numbers, in the order of the file."""
    pairs: dict[int, str] = {}
    for line, text in enumerate(_lines(path), start=1):
        if not text.strip():
            continue
        identity, _, rest = text.strip().partition(" ")
        if not identity.isdecimal() or not rest.strip():
            _refuse(path, f"expected a number and a value, found {text[:80]!r}", line)
        if int(identity) in pairs:
            _refuse(path, f"number {identity} appears a second time", line)
        pairs[int(identity)] = rest.strip()
    if not pairs:
        _refuse(path, "is empty")
    return pairs


def _column(path: Path, expected: dict[int, str], expected_in: str) -> dict[int, int]:
    """A list of `number integer`, with a line for each expected number."""
    pairs = _pairs(path)
    for identity in expected:
        if identity not in pairs:
            _refuse(path, f"has no line for number {identity} of {expected_in}")
        if not pairs[identity].isdecimal():
            _refuse(path, f"expected an integer for number {identity}, found {pairs[identity]!r}")
    return {identity: int(pairs[identity]) for identity in expected}


def _table(path: Path, columns: int) -> np.ndarray:
    """A file of numbers, (lines, columns)."""
    lines = [line for line in _lines(path) if line.strip()]
    try:
        numbers = np.array(" ".join(lines).split(), dtype=np.float64)
        return numbers.reshape(len(lines), columns)
    except ValueError as error:
        for line, text in enumerate(lines, start=1):
            if len(text.split()) != columns:
                message = f"expected {columns} numbers, found {text[:80]!r}"
                raise DataError(f"{path}, line {line}: {message}") from error
        raise DataError(f"{path}: expected numbers only ({error})") from error


def _boxes(path: Path, paths: dict[int, str]) -> dict[int, Box]:
    if not path.exists():
        return {}
    boxes = {int(row[0]): Box(*row[1:]) for row in _table(path, 5).tolist()}
    if missing := paths.keys() - boxes.keys():
        _refuse(path, f"has no line for number {min(missing)} of images.txt")
    return boxes


def _parts(
    root: Path, paths: dict[int, str]
) -> tuple[dict[int, str], dict[int, tuple[tuple[float, float] | None, ...]]]:
    """Part names by number, and for each picture where its parts are, in the order of the names."""
    names_file, places_file = root / "parts" / "parts.txt", root / "parts" / "part_locs.txt"
    if not names_file.exists() or not places_file.exists():
        return {}, {}
    names = _pairs(names_file)
    order = {identity: position for position, identity in enumerate(names)}
    places: dict[int, list[tuple[float, float] | None]] = defaultdict(lambda: [None] * len(order))
    for image, part, x, y, visible in _table(places_file, 5).tolist():
        if part not in order:
            _refuse(places_file, f"part {part:g} is not in parts.txt")
        places[int(image)][order[int(part)]] = (x, y) if visible else None
    return names, {identity: tuple(places[identity]) for identity in paths}


def _masks(folder: Path) -> set[str]:
    """The masks there are, as `class folder/file name`."""
    if not folder.is_dir():
        return set()
    classes = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    return {f"{name}/{file}" for name in classes for file in os.listdir(folder / name)}


def _discriminative(
    root: Path, label_of: dict[int, int], part_names: dict[int, str]
) -> dict[int, tuple[int, ...]]:
    path = root / "parts" / "discriminative_parts.txt"
    if not path.exists():
        return {}
    order = {str(identity): position for position, identity in enumerate(part_names)}
    found = {}
    for identity, parts in _pairs(path).items():
        if identity not in label_of or not set(parts.split()) <= order.keys():
            _refuse(path, f"class {identity} with parts {parts}: not in classes.txt and parts.txt")
        found[label_of[identity]] = tuple(order[part] for part in parts.split())
    return found
