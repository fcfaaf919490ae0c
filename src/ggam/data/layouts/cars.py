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

from ggam.data.layouts.lists import absent, beside_or_in, corner_box, field, read_mat, refuse
from ggam.data.records import FineGrainedDataset, Sample

_MERGED = ("cars_annos.mat", "car_ims")
_META = "devkit/cars_meta.mat"
_TRAIN_LIST = "devkit/cars_train_annos.mat"
_TEST_LIST = "cars_test_annos_withlabels.mat"


def missing_files(root: Path) -> tuple[str, ...] | None:
    """What a folder lacks to be of this layout; None if nothing in it speaks for it.

    The devkit's own `cars_test_annos.mat` is without labels: it does not stand in for the list with them.
    """
    merged = absent(root, _MERGED)
    if not merged:
        return ()
    required = (_META, _TRAIN_LIST, "cars_train", "cars_test")
    devkit = absent(root, required)
    if not beside_or_in(root, "devkit", _TEST_LIST).exists():
        devkit += (f"devkit/{_TEST_LIST}",)
    if len(devkit) < len(required) + 1:
        return devkit
    return merged if len(merged) < len(_MERGED) else None


def read(root: Path, split: str) -> FineGrainedDataset:
    """Read one split.

    Args:
        root: the folder that holds `devkit/`, or `cars_annos.mat`.
        split: `train` or `test`.

    Raises:
        DataError: if a list is missing or damaged, or speaks of a class that has no name.
    """
    if (root / "cars_annos.mat").exists():
        path = root / "cars_annos.mat"
        names, records = read_mat(path, "class_names", "annotations")
        in_split = [bool(test) == (split == "test") for test in field(path, records, "test")]
        samples = _samples(path, root, "relative_im_path", records[in_split], names)
    else:
        (names,) = read_mat(root / _META, "class_names")
        path = root / _TRAIN_LIST if split == "train" else beside_or_in(root, "devkit", _TEST_LIST)
        (records,) = read_mat(path, "annotations")
        samples = _samples(path, root / f"cars_{split}", "fname", records, names)
    if not samples:
        refuse(path, f"no picture belongs to the {split} split")
    return FineGrainedDataset(samples, tuple(map(str, names)), root=root, layout="cars", split=split)


def _samples(path: Path, folder: Path, name_field: str, records: Any, classes: Sequence[Any]) -> list[Sample]:
    """The samples of an array of annotations."""
    sides = [field(path, records, f"bbox_{side}") for side in ("x1", "y1", "x2", "y2")]
    labels, files = field(path, records, "class"), field(path, records, name_field)
    samples = []
    for file, number, *corners in zip(files, labels, *sides, strict=True):
        if not 1 <= number <= len(classes):
            refuse(path, f"class {number} of {file}: expected a number from 1 to {len(classes)}")
        samples.append(Sample(folder / file, int(number) - 1, box=corner_box(*corners)))
    return samples
