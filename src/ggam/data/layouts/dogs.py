"""The layout of Stanford Dogs.

lists/train_list.mat  lists/test_list.mat        file_list, annotation_list, labels (from 1); the lists
                                                 may also lie right in the folder, as lists.tar has them
Images/n02085620-Chihuahua/n02085620_7.jpg       the pictures
Annotation/n02085620-Chihuahua/n02085620_7       their boxes as XML (may be left out)
"""

import re
from pathlib import Path

from ggam.data.layouts.lists import beside_or_in, corner_box, read_mat, refuse
from ggam.data.records import Box, FineGrainedDataset, Sample, readable_names

_LISTS = ("train_list.mat", "test_list.mat")
_BOX = re.compile(
    r"<xmin>\s*(\d+)\s*</xmin>\s*<ymin>\s*(\d+)\s*</ymin>\s*<xmax>\s*(\d+)\s*</xmax>\s*<ymax>\s*(\d+)\s*</ymax>"
)


def missing_files(root: Path) -> tuple[str, ...] | None:
    """What a folder lacks to be of this layout; None if nothing in it speaks for it."""
    missing = tuple(name for name in _LISTS if not beside_or_in(root, "lists", name).exists())
    if len(missing) == len(_LISTS) and not (root / "Images").is_dir():
        return None
    if len(missing) == len(_LISTS) and not (root / "Annotation").is_dir():
        return None
    return missing if (root / "Images").is_dir() else (*missing, "Images")


def read(root: Path, split: str) -> FineGrainedDataset:
    """Read one split. Where a picture shows several dogs, its box is that of the largest.

    Args:
        root: the folder that holds `Images/`.
        split: `train` or `test`.

    Raises:
        DataError: if a list or an annotation is missing or damaged, or a class is not in the training list.
    """
    train_list = beside_or_in(root, "lists", "train_list.mat")
    path = train_list if split == "train" else beside_or_in(root, "lists", "test_list.mat")
    files, annotations, numbers = read_mat(path, "file_list", "annotation_list", "labels")
    train_files, train_numbers = read_mat(train_list, "file_list", "labels")
    folder_of = {
        int(n): str(file).partition("/")[0] for n, file in zip(train_numbers, train_files, strict=True)
    }
    label_of = {number: label for label, number in enumerate(sorted(folder_of))}
    breeds = [folder_of[number].partition("-")[2] for number in label_of]
    annotated = (root / "Annotation").is_dir()
    samples = []
    for file, annotation, number in zip(files, annotations, numbers, strict=True):
        if int(number) not in label_of:
            refuse(path, f"class {int(number)} of {file} is not in train_list.mat")
        box = _box(root / "Annotation" / str(annotation)) if annotated else None
        samples.append(Sample(root / "Images" / str(file), label_of[int(number)], box=box))
    return FineGrainedDataset(samples, readable_names(breeds), root=root, layout="dogs", split=split)


def _box(path: Path) -> Box:
    """The largest box of an annotation, of which some begin at 0 though pixels are counted from 1."""
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        refuse(path, f"cannot be read ({error}); unpack all of annotation.tar")
    boxes = [corner_box(*map(int, corners)) for corners in _BOX.findall(text)]
    if not boxes:
        refuse(path, "holds no bounding box")
    box = max(boxes, key=lambda box: box.width * box.height)
    return box._replace(x=max(box.x, 0), y=max(box.y, 0))
