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

from collections import defaultdict
from pathlib import Path

from ggam.data.lists import read_numbers, read_pairs, refuse
from ggam.data.records import Box, FineGrainedDataset, Sample, readable_names

Places = tuple[tuple[float, float] | None, ...]

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
    boxes = _boxes(root / "bounding_boxes.txt")
    part_names, parts = _parts(root / "parts")
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
        part_names=part_names,
    )


def _column(path: Path, pictures: dict[str, str]) -> dict[str, str]:
    """A list with a number for each picture, as text without leading zeros."""
    pairs = read_pairs(path)
    for picture in pictures:
        if picture not in pairs:
            refuse(path, f"has no line for picture {picture} of images.txt")
        if not pairs[picture].isdecimal():
            refuse(path, f"expected a number for picture {picture}, found {pairs[picture]!r}")
    return {picture: str(int(pairs[picture])) for picture in pictures}


def _boxes(path: Path) -> dict[str, Box]:
    if not path.exists():
        return {}
    return {picture: Box(*numbers) for picture, numbers in read_numbers(path, 4)}


def _parts(folder: Path) -> tuple[list[str], dict[str, Places]]:
    """Part names, and for each picture where its parts are, in the order of the names."""
    names_file, places_file = folder / "parts.txt", folder / "part_locs.txt"
    if not names_file.exists() or not places_file.exists():
        return [], {}
    names = read_pairs(names_file)
    order = {float(number): position for position, number in enumerate(names)}
    places: dict[str, list[tuple[float, float] | None]] = defaultdict(lambda: [None] * len(order))
    for picture, (part, x, y, visible) in read_numbers(places_file, 4):
        if part not in order:
            refuse(places_file, f"part {part:g} is not in parts.txt")
        places[picture][order[part]] = (x, y) if visible else None
    return list(names.values()), {picture: tuple(found) for picture, found in places.items()}
