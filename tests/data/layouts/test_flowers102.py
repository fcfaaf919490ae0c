from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ggam.data.layouts.flowers102 import CLASS_NAMES
from ggam.data.layouts.registry import detect_layout, load_dataset
from ggam.data.records import DataError

LABELS = [77, 77, 1, 102, 1, 102, 77, 1]


def write_flowers(root: Path, labels: list[int], trn: list[int], val: list[int], tst: list[int]) -> Path:
    """Row vectors as in the archive: labels 1×N as doubles, the three splits as 16-bit numbers."""
    sets = {"trnid": trn, "valid": val, "tstid": tst}
    savemat(root / "imagelabels.mat", {"labels": np.array([labels], dtype=np.float64)})
    savemat(root / "setid.mat", {name: np.array([ids], dtype=np.uint16) for name, ids in sets.items()})
    (root / "jpg").mkdir()
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_flowers(tmp_path, LABELS, [3, 1], [4], [2, 5, 6, 7, 8])
    for n in range(1, len(LABELS) + 1):
        Image.new("RGB", (50, 40 + n)).save(tmp_path / "jpg" / f"image_{n:05d}.jpg")
    return tmp_path


def test_train_is_trnid_and_valid(root: Path) -> None:
    train, test = (load_dataset(root, split=split) for split in ("train", "test"))

    assert detect_layout(root) == train.layout == "flowers102"
    assert [s.path.name for s in train.samples] == ["image_00003.jpg", "image_00001.jpg", "image_00004.jpg"]
    assert train.labels == [0, 76, 101]
    assert test.labels == [76, 0, 101, 76, 0]
    assert [train.class_names[label] for label in train.labels] == [
        "Pink primrose",
        "Passion flower",
        "Blackberry lily",
    ]
    assert test[0][0].size == (50, 42)


def test_a_name_for_each_of_the_classes() -> None:
    assert len(set(CLASS_NAMES)) == 102
    assert CLASS_NAMES[50] == "Petunia"  # number 51, the largest class of the archive
    assert CLASS_NAMES[72] == "Water lily"


@pytest.mark.parametrize("name", ["imagelabels.mat", "setid.mat", "jpg"])
def test_half_an_archive_is_named(root: Path, name: str) -> None:
    (root / name).rename(root / "elsewhere")
    with pytest.raises(DataError, match=f"looks like flowers102, but {name} is missing"):
        load_dataset(root, split="train")


def test_numbers_out_of_range_are_named(tmp_path: Path) -> None:
    write_flowers(tmp_path, [1, 103], [1], [2], [3])
    with pytest.raises(DataError, match=r"setid.mat: picture 3: expected a number from 1 to 2"):
        load_dataset(tmp_path, split="test")
    with pytest.raises(DataError, match=r"imagelabels.mat: label 103 of picture 2: expected 1 to 102"):
        load_dataset(tmp_path, split="train")


def test_full_size_lists(tmp_path: Path) -> None:
    labels = [n % 102 + 1 for n in range(8189)]
    everything = list(range(1, 8190))
    write_flowers(tmp_path, labels, everything[:1020], everything[1020:2040], everything[2040:])
    assert [len(load_dataset(tmp_path, split=split)) for split in ("train", "test")] == [2040, 6149]
