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
from pathlib import Path

from ggam.data.layouts.lists import read_boxes, read_column, read_pairs, read_parts, refuse
from ggam.data.records import DataError, FineGrainedDataset, Sample, readable_names

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
    classes, paths = read_pairs(root / "classes.txt"), read_pairs(root / "images.txt")
    label_of = {identity: label for label, identity in enumerate(classes)}
    labels = _labels(root, paths, label_of)
    boxes = read_boxes(root / "bounding_boxes.txt", paths)
    part_names, parts = read_parts(root / "parts", paths)
    masks = _masks(root / "segmentations")
    samples = []
    for identity in _chosen(root, paths, split):
        mask = str(Path(paths[identity]).with_suffix(".png"))
        samples.append(
            Sample(
                path=root / "images" / paths[identity],
                label=labels[identity],
                box=boxes.get(identity),
                parts=parts.get(identity, ()),
                mask=root / "segmentations" / mask if mask in masks else None,
            )
        )
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


def _labels(root: Path, paths: dict[str, str], label_of: dict[str, int]) -> dict[str, int]:
    path = root / "image_class_labels.txt"
    class_of = read_column(path, paths)
    for identity in paths:
        if class_of[identity] not in label_of:
            refuse(path, f"class {class_of[identity]} of picture {identity} is not in classes.txt")
    return {identity: label_of[class_of[identity]] for identity in paths}


def _chosen(root: Path, paths: dict[str, str], split: str) -> list[str]:
    """The numbers of the pictures of a split."""
    path = root / "train_test_split.txt"
    in_train = read_column(path, paths)
    for identity in paths:
        if in_train[identity] not in ("0", "1"):
            refuse(path, f"expected 0 or 1 for picture {identity}, found {in_train[identity]!r}")
    chosen = [identity for identity in paths if in_train[identity] == ("1" if split == "train" else "0")]
    if not chosen:
        refuse(path, f"no picture belongs to the {split} split")
    return chosen


def _masks(folder: Path) -> set[str]:
    """The masks there are, as `class folder/file name`."""
    if not folder.is_dir():
        return set()
    classes = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    return {f"{name}/{file}" for name in classes for file in os.listdir(folder / name)}


def _discriminative(
    root: Path, label_of: dict[str, int], part_names: dict[str, str]
) -> dict[int, tuple[int, ...]]:
    path = root / "parts" / "discriminative_parts.txt"
    if not path.exists():
        return {}
    order = {identity: position for position, identity in enumerate(part_names)}
    found = {}
    for identity, parts in read_pairs(path).items():
        if identity not in label_of or not set(parts.split()) <= order.keys():
            refuse(path, f"class {identity} with parts {parts}: not in classes.txt and parts.txt")
        found[label_of[identity]] = tuple(order[part] for part in parts.split())
    return found
