"""The two layouts in which Stanford Cars was published, read alike.

devkit/cars_meta.mat                       class_names
devkit/cars_train_annos.mat                annotations: bbox_x1 … bbox_y2, class, fname
devkit/cars_test_annos_withlabels.mat      the same for the test pictures; also found beside devkit/
cars_train/00001.jpg  cars_test/00001.jpg  the pictures

cars_annos.mat        annotations: relative_im_path, bbox_x1 … bbox_y2, class, test; class_names
car_ims/000001.jpg    the pictures

The re-upload of class folders (`train/AM General Hummer SUV 2000/…`, `test/…`) is the layout `folder`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ggam.data.layouts.lists import field, read_mat, refuse
from ggam.data.records import Box, FineGrainedDataset, Sample

_MERGED = ("cars_annos.mat", "car_ims")
_META = "devkit/cars_meta.mat"
_TRAIN_LIST = "devkit/cars_train_annos.mat"
_TEST_LIST = "cars_test_annos_withlabels.mat"


def missing_files(root: Path) -> tuple[str, ...] | None:
    """What a folder lacks to be of this layout; None if nothing in it speaks for it.

    The devkit's own `cars_test_annos.mat` is without labels: it does not stand in for the list with them.
    """
    merged = tuple(name for name in _MERGED if not (root / name).exists())
    if not merged:
        return ()
    required = (_META, _TRAIN_LIST, "cars_train", "cars_test")
    devkit = tuple(name for name in required if not (root / name).exists())
    if not _test_list(root).exists():
        devkit += (f"devkit/{_TEST_LIST}",)
    if len(devkit) < len(required) + 1:
        return devkit
    return merged if len(merged) < len(_MERGED) else None


def read(root: Path, split: str, *, seed: int = 0) -> FineGrainedDataset:
    """Read one split.

    Args:
        root: the folder that holds `devkit/`, or `cars_annos.mat`.
        split: `train` or `test`.
        seed: not used: the layout comes with its split.

    Raises:
        DataError: if a list is missing or damaged, speaks of a class that has no name, or scipy is not
            installed.
    """
    del seed
    if (root / "cars_annos.mat").exists():
        path = root / "cars_annos.mat"
        names, records = read_mat(path, "class_names", "annotations")
        in_split = [bool(test) == (split == "test") for test in field(path, records, "test")]
        samples = _samples(path, root, "relative_im_path", records[in_split], names)
    else:
        (names,) = read_mat(root / _META, "class_names")
        path = root / _TRAIN_LIST if split == "train" else _test_list(root)
        (records,) = read_mat(path, "annotations")
        samples = _samples(path, root / f"cars_{split}", "fname", records, names)
    if not samples:
        refuse(path, f"no picture belongs to the {split} split")
    return FineGrainedDataset(samples, [str(name) for name in names], root=root, layout="cars", split=split)


def _test_list(root: Path) -> Path:
    beside = root / _TEST_LIST
    return beside if beside.exists() else root / "devkit" / _TEST_LIST


def _samples(path: Path, folder: Path, name_field: str, records: Any, classes: Sequence[Any]) -> list[Sample]:
    """The samples of an array of annotations; their boxes are both corner pixels, counted from 1."""
    corners = zip(*(field(path, records, f"bbox_{side}") for side in ("x1", "y1", "x2", "y2")), strict=True)
    labels, files = field(path, records, "class"), field(path, records, name_field)
    samples = []
    for file, number, (left, top, right, bottom) in zip(files, labels, corners, strict=True):
        if not 1 <= number <= len(classes):
            refuse(path, f"class {number} of {file}: expected a number from 1 to {len(classes)}")
        box = Box(left - 1, top - 1, right - left + 1, bottom - top + 1)
        samples.append(Sample(folder / file, int(number) - 1, box=box))
    return samples
