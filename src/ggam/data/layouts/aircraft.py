"""The layout of FGVC-Aircraft (2013b).

data/images/1025794.jpg            the pictures, each with a copyright line of 20 rows at the bottom
data/variants.txt                  707-320                (also families.txt, manufacturers.txt)
data/images_variant_trainval.txt   1025794 707-320        (also _test; family and manufacturer alike)
data/images_box.txt                1025794 3 144 998 431  (xmin ymin xmax ymax, counted from 1)

The archive also splits trainval into 3334 train and 3333 val; what the field trains on is both, 6667.
"""

from pathlib import Path

from ggam.data.layouts.lists import absent, corner_box, read_lines, read_numbers, read_pairs, refuse
from ggam.data.records import DataError, FineGrainedDataset, Sample

BANNER = 20
"""Rows at the bottom of each picture that hold its copyright line."""
CLASS_LISTS = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}
"""The list of class names of each level of the hierarchy, from fine to coarse."""


def missing_files(root: Path) -> tuple[str, ...] | None:
    """What a folder lacks to be of this layout; None if nothing in it speaks for it."""
    folder = _folder(root)
    telling = ("variants.txt", "images_variant_trainval.txt", "images_variant_test.txt")
    if len(absent(folder, telling)) == len(telling):
        return None
    return tuple(str((folder / name).relative_to(root)) for name in absent(folder, (*telling, "images")))


def read(root: Path, split: str, *, level: str = "variant") -> FineGrainedDataset:
    """Read one split.

    Args:
        root: the folder that holds `data/`, or `data/` itself.
        split: `train`, which is the archive's trainval, or `test`.
        level: what the classes are, a key of `CLASS_LISTS`.

    Raises:
        DataError: if a list is missing, has a line of another form, or speaks of a class or picture
            that is not in the others.
    """
    folder = _folder(root)
    if not (folder / "images").is_dir():
        raise DataError(f"{folder / 'images'}: no such folder; unpack all of the data set")
    classes = tuple(name for _, name in read_lines(folder / CLASS_LISTS[level]))
    label_of = {name: label for label, name in enumerate(classes)}
    list_file = folder / f"images_{level}_{'trainval' if split == 'train' else 'test'}.txt"
    box_file = folder / "images_box.txt"
    corners = dict(read_numbers(box_file, 4)) if box_file.exists() else {}
    samples = []
    for picture, name in read_pairs(list_file).items():
        if name not in label_of:
            refuse(list_file, f"class {name!r} of picture {picture} is not in {CLASS_LISTS[level]}")
        path = folder / "images" / f"{picture}.jpg"
        box = corner_box(*corners[picture]) if picture in corners else None
        samples.append(Sample(path, label_of[name], box=box, banner=BANNER))
    layout = "aircraft" if level == "variant" else f"aircraft-{level}"
    return FineGrainedDataset(samples, classes, root=root, layout=layout, split=split)


def _folder(root: Path) -> Path:
    return root / "data" if (root / "data").is_dir() else root
