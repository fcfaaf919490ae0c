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

from pathlib import Path

from ggam.data.layouts import cub
from ggam.data.layouts.lists import absent, read_column, read_pairs, refuse
from ggam.data.records import FineGrainedDataset

_REQUIRED = ("hierarchy.txt", *cub.REQUIRED)


def missing_files(root: Path) -> tuple[str, ...] | None:
    """What a folder lacks to be of this layout; None if nothing in it speaks for it."""
    missing = absent(root, _REQUIRED)
    telling = "hierarchy.txt" not in missing and len(missing) < len(_REQUIRED) - 1
    return missing if telling else None


def read(root: Path, split: str) -> FineGrainedDataset:
    """Read one split. The classes are those nodes of the hierarchy that pictures belong to.

    Args:
        root: the folder that holds images.txt.
        split: `train` or `test`.

    Raises:
        DataError: if a list is missing, has a line of another form, or speaks of a picture, class or
            part that is not in the others.
    """
    paths, names = read_pairs(root / "images.txt"), read_pairs(root / "classes.txt")
    file = root / "image_class_labels.txt"
    class_of = {}
    for picture, number in read_column(file, paths).items():
        if not number.isdecimal():
            refuse(file, f"expected a number for picture {picture}, found {number!r}")
        class_of[picture] = str(int(number))  # some are written with zeros in front
    used = {class_of[picture] for picture in paths}
    classes = {number: names[number] for number in sorted(used, key=int) if number in names}
    return cub.read_birds(root, split, "nabirds", paths, classes, class_of)
