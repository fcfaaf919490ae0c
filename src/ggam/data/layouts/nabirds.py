"""The layout of NABirds, which is CUB's with other identities.

classes.txt              817 Oak Titmouse            (1011 nodes, of which 555 are classes)
hierarchy.txt            817 89                      (child, parent; CUB has no such list)
images.txt               0000139e-21dc-4d0c-bfe1-4cae3c85c829 0817/0000139e21dc4d0cbfe14cae3c85c829.jpg
image_class_labels.txt   0000139e-21dc-4d0c-bfe1-4cae3c85c829 817
train_test_split.txt     0000139e-21dc-4d0c-bfe1-4cae3c85c829 0      (1 is training)
images/                  the pictures
bounding_boxes.txt       0000139e-21dc-4d0c-bfe1-4cae3c85c829 83 59 128 228   (x, y, width, height)
parts/parts.txt          0 bill
parts/part_locs.txt      0000139e-21dc-4d0c-bfe1-4cae3c85c829 0 106 122 1     (part, x, y, visible)
"""

from collections.abc import Collection
from pathlib import Path

from ggam.data.layouts.lists import read_boxes, read_column, read_pairs, read_parts, refuse
from ggam.data.records import FineGrainedDataset, Sample, readable_names

_REQUIRED = (
    "hierarchy.txt",
    "classes.txt",
    "images.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "images",
)


def missing_files(root: Path) -> tuple[str, ...] | None:
    """What a folder lacks to be of this layout; None if nothing in it speaks for it."""
    missing = tuple(name for name in _REQUIRED if not (root / name).exists())
    telling = "hierarchy.txt" not in missing and len(missing) < len(_REQUIRED) - 1
    return missing if telling else None


def read(root: Path, split: str, *, seed: int = 0) -> FineGrainedDataset:
    """Read one split. The classes are those nodes of the hierarchy that pictures belong to.

    Args:
        root: the folder that holds images.txt.
        split: `train` or `test`.
        seed: not used: the layout comes with its split.

    Raises:
        DataError: if a list is missing, has a line of another form, or speaks of a picture, class or
            part that is not in the others.
    """
    del seed
    paths = read_pairs(root / "images.txt")
    names = read_pairs(root / "classes.txt")
    class_of = _column(root / "image_class_labels.txt", paths)
    in_train = _column(root / "train_test_split.txt", paths)
    classes = sorted(set(class_of.values()), key=lambda number: (len(number), number))
    for number in classes:
        if number not in names:
            refuse(root / "image_class_labels.txt", f"class {number} is not in classes.txt")
    label_of = {number: label for label, number in enumerate(classes)}
    boxes = read_boxes(root / "bounding_boxes.txt", paths)
    part_names, parts = read_parts(root / "parts", paths)
    samples = [
        Sample(
            path=root / "images" / path,
            label=label_of[class_of[picture]],
            box=boxes.get(picture),
            parts=parts.get(picture, ()),
        )
        for picture, path in paths.items()
        if (in_train[picture] == "1") == (split == "train")
    ]
    if not samples:
        refuse(root / "train_test_split.txt", f"no picture belongs to the {split} split")
    return FineGrainedDataset(
        samples,
        readable_names([names[number] for number in classes]),
        root=root,
        layout="nabirds",
        split=split,
        part_names=list(part_names.values()),
    )


def _column(path: Path, pictures: Collection[str]) -> dict[str, str]:
    """A list with a number for each picture, as text without leading zeros."""
    pairs = read_column(path, pictures)
    for picture, number in pairs.items():
        if not number.isdecimal():
            refuse(path, f"expected a number for picture {picture}, found {number!r}")
    return {picture: str(int(pairs[picture])) for picture in pictures}
