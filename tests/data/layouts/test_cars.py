import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ggam.data.layouts.registry import detect_layout, load_dataset
from ggam.data.records import DataError

NAMES = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"]
TRAIN = [("00001.jpg", 3), ("00002.jpg", 1), ("00003.jpg", 2), ("00004.jpg", 3)]
TEST = [("00001.jpg", 2), ("00002.jpg", 3)]


def cells(values: list[str]) -> np.ndarray:
    """A MATLAB row cell array of strings."""
    array = np.empty((1, len(values)), dtype=object)
    array[0] = values
    return array


def structures(rows: list[dict[str, Any]]) -> np.ndarray:
    """A MATLAB 1×N structure array."""
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for n, row in enumerate(rows):
        array[0, n] = tuple(row.values())
    return array


def box(n: int) -> dict[str, Any]:
    """The devkit stores numbers as small unsigned integers, which differences must not wrap around."""
    names = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
    return {name: np.uint8(value) for name, value in zip(names, (5, 3, 200 + n, 150), strict=True)}


def annotations(rows: list[tuple[str, int]]) -> np.ndarray:
    return structures([box(n) | {"class": np.uint8(c), "fname": name} for n, (name, c) in enumerate(rows)])


def write_devkit(
    root: Path,
    train: list[tuple[str, int]] = TRAIN,
    test: list[tuple[str, int]] = TEST,
    names: list[str] = NAMES,
    labels: str = "devkit",
) -> Path:
    for folder in ("devkit", "cars_train", "cars_test"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": cells(names)})
    savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": annotations(train)})
    savemat(root / labels / "cars_test_annos_withlabels.mat", {"annotations": annotations(test)})
    bare = structures([box(n) | {"fname": name} for n, (name, _) in enumerate(test)])
    savemat(root / "devkit" / "cars_test_annos.mat", {"annotations": bare})
    return root


def write_merged(root: Path) -> Path:
    rows = [
        (f"car_ims/{n:06d}.jpg", c, test) for n, (c, test) in enumerate([(1, 0), (3, 1), (2, 0)], start=1)
    ]
    records = [
        {"relative_im_path": path} | box(n) | {"class": np.uint8(c), "test": np.uint8(test)}
        for n, (path, c, test) in enumerate(rows)
    ]
    (root / "car_ims").mkdir(parents=True)
    variables = {"annotations": structures(records), "class_names": cells(NAMES)}
    savemat(root / "cars_annos.mat", variables)
    return root


def save_picture(path: Path, color: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (240, 160), (color, 99, 0)).save(path)


@pytest.mark.parametrize("labels", ["devkit", "."])
def test_devkit(tmp_path: Path, labels: str) -> None:
    write_devkit(tmp_path, labels=labels)
    save_picture(tmp_path / "cars_train" / "00001.jpg")
    train, test = (load_dataset(tmp_path, split=split) for split in ("train", "test"))

    assert detect_layout(tmp_path) == train.layout == test.layout == "cars"
    assert train.class_names == tuple(NAMES)
    assert train.labels == [2, 0, 1, 2]
    assert test.labels == [1, 2]
    assert test.samples[0].path == tmp_path / "cars_test" / "00001.jpg"
    assert train.samples[1].box == (4, 2, 197, 148)  # columns 5 … 201, rows 3 … 150, counted from 1
    assert train[0][0].size == (240, 160)


def test_pictures_in_the_devkit_folders_are_not_taken_for_class_folders(tmp_path: Path) -> None:
    write_devkit(tmp_path)
    for name in ("cars_train/00001.jpg", "cars_test/00001.jpg"):
        save_picture(tmp_path / name)
    assert detect_layout(tmp_path) == "cars"


def test_merged(tmp_path: Path) -> None:
    write_merged(tmp_path)
    save_picture(tmp_path / "car_ims" / "000001.jpg")
    train, test = (load_dataset(tmp_path, split=split) for split in ("train", "test"))

    assert detect_layout(tmp_path) == "cars"
    assert (train.labels, test.labels) == ([0, 1], [2])
    assert [s.path.name for s in train.samples] == ["000001.jpg", "000003.jpg"]
    assert test.samples[0].box == (4, 2, 197, 148)
    assert train[0][0].size == (240, 160)


def test_class_folders_of_the_re_upload(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for color, name in enumerate(NAMES):
            save_picture(tmp_path / split / name.replace("/", "-") / "00001.jpg", color)
    train = load_dataset(tmp_path, split="train")

    assert train.layout == "folder"
    assert train.class_names == (*NAMES[:2], "Ram C-V Cargo Van Minivan 2012")


def test_a_test_list_without_labels_is_no_test_list(tmp_path: Path) -> None:
    write_devkit(tmp_path)
    (tmp_path / "devkit" / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(DataError, match=r"cars, but devkit/cars_test_annos_withlabels.mat is missing"):
        load_dataset(tmp_path, split="test")


@pytest.mark.parametrize(
    "name", ["devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_train", "cars_test"]
)
def test_half_an_archive_is_named(tmp_path: Path, name: str) -> None:
    write_devkit(tmp_path)
    gone = tmp_path / name
    gone.rmdir() if gone.is_dir() else gone.unlink()
    with pytest.raises(DataError, match=f"looks like cars, but {name} is missing"):
        load_dataset(tmp_path, split="train")


def test_half_the_merged_archive_is_named(tmp_path: Path) -> None:
    save_picture(tmp_path / "car_ims" / "000001.jpg")
    with pytest.raises(DataError, match=r"looks like cars, but cars_annos.mat is missing"):
        load_dataset(tmp_path, split="train")


def test_a_class_out_of_range_is_named(tmp_path: Path) -> None:
    write_devkit(tmp_path, test=[("00001.jpg", 1), ("00002.jpg", 4)])
    with pytest.raises(DataError, match=r"class 4 of 00002.jpg: expected a number from 1 to 3"):
        load_dataset(tmp_path, split="test")


def test_a_damaged_or_foreign_mat_file_is_named(tmp_path: Path) -> None:
    write_devkit(tmp_path)
    path = tmp_path / "devkit" / "cars_train_annos.mat"
    whole = path.read_bytes()
    for content in (b"", b"no mat file", whole[:200], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"cars_train_annos.mat: (cannot be read|has no variable)"):
            load_dataset(tmp_path, split="train")
    savemat(path, {"annotations": structures([{"class": 1, "fname": "00001.jpg"}])})
    with pytest.raises(DataError, match=r"cars_train_annos.mat: its records have no field 'bbox_x1'"):
        load_dataset(tmp_path, split="train")


@pytest.mark.slow
def test_full_size_lists(tmp_path: Path) -> None:
    names = [f"Maker Model {n} Sedan 2012" for n in range(196)]
    rows = {
        count: [(f"{n:05d}.jpg", n % 196 + 1) for n in range(1, count + 1)]  # as many as Table 1 says
        for count in (8144, 8041)
    }
    many = np.empty((1, 8144), dtype=[(name, object) for name in (*box(0), "class", "fname")])
    corners = tuple(box(0).values())
    for count, file in ((8144, "cars_train_annos"), (8041, "cars_test_annos_withlabels")):
        for n, (name, number) in enumerate(rows[count]):
            many[0, n] = (*corners, np.uint8(number), name)
        (tmp_path / "devkit").mkdir(exist_ok=True)
        savemat(tmp_path / "devkit" / f"{file}.mat", {"annotations": many[:, :count]})
    savemat(tmp_path / "devkit" / "cars_meta.mat", {"class_names": cells(names)})
    for folder in ("cars_train", "cars_test"):
        (tmp_path / folder).mkdir()

    start = time.process_time()
    train = load_dataset(tmp_path, split="train")
    middle = time.process_time()
    test = load_dataset(tmp_path, split="test")

    assert (len(train), len(test), len(train.class_names)) == (8144, 8041, 196)
    assert middle - start < 5
    assert time.process_time() - middle < 5
