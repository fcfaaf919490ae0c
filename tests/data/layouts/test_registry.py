from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import ggam
from ggam.data.layouts.registry import LAYOUTS, detect_layout, load_dataset
from ggam.data.records import DataError

CUB_LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")


def cub_folder(root: Path) -> Path:
    (root / "images" / "001.A").mkdir(parents=True)
    for name in CUB_LISTS:
        (root / name).touch()
    return root


def class_folders(root: Path) -> Path:
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (4, 4)).save(root / name / f"{number}.png")
    return root


def test_each_layout_goes_by_its_name() -> None:
    assert all(name == layout.name for name, layout in LAYOUTS.items())


def test_layouts_are_recognised_by_their_files(tmp_path: Path, squares: Path) -> None:
    assert detect_layout(cub_folder(tmp_path / "birds")) == "cub"
    assert detect_layout(class_folders(tmp_path / "plain")) == "folder"
    assert detect_layout(squares) == "folder"


@pytest.mark.parametrize("missing", CUB_LISTS[:3])
def test_a_half_unpacked_archive_is_told_what_it_lacks(tmp_path: Path, missing: str) -> None:
    root = cub_folder(tmp_path)
    (root / missing).unlink()

    with pytest.raises(DataError, match=f"looks like cub, but {missing} is missing"):
        detect_layout(root)


def test_cub_without_its_pictures_is_half_unpacked(tmp_path: Path) -> None:
    root = cub_folder(tmp_path)
    (root / "images" / "001.A").rmdir()
    (root / "images").rmdir()

    with pytest.raises(DataError, match="but images is missing"):
        detect_layout(root)


def test_the_folder_above_points_to_the_one_below(tmp_path: Path) -> None:
    cub_folder(tmp_path / "CUB_200_2011")

    with pytest.raises(DataError, match=r"there is one in it: use .*CUB_200_2011"):
        load_dataset(tmp_path, split="train")


def test_a_folder_of_anything_else_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()

    with pytest.raises(DataError, match=r"none of the known layouts \(cub, "):
        detect_layout(tmp_path)


def test_a_layout_may_be_forced(tmp_path: Path) -> None:
    root = class_folders(tmp_path)

    assert load_dataset(str(root), split="test", layout="folder").class_names == ("a", "b")
    with pytest.raises(DataError, match=r"images.txt"):
        load_dataset(root, split="test", layout="cub")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, "split 'val': expected one of train, test"),
        ({"split": "train", "layout": "folders"}, "layout 'folders': did you mean 'folder'?"),
        ({"split": "train", "layout": "xyz"}, "layout 'xyz': expected one of cub"),
    ],
)
def test_wrong_words_are_answered_with_the_right_ones(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(class_folders(tmp_path), **arguments)
    assert str(caught.value).startswith(message)


def test_a_missing_folder_and_an_archive(tmp_path: Path) -> None:
    archive = tmp_path / "CUB_200_2011.tgz"
    archive.touch()

    with pytest.raises(DataError, match=r"nowhere: no such folder$"):
        load_dataset(tmp_path / "nowhere", split="train")
    with pytest.raises(DataError, match=r"tgz: is a file; expected a folder \(unpack an archive first\)"):
        load_dataset(archive, split="train")


def test_the_seed_reaches_the_reader(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    tests = {
        seed: [sample.path for sample in load_dataset(root, split="test", seed=seed).samples]
        for seed in range(5)
    }

    assert len({tuple(paths) for paths in tests.values()}) > 1


def test_load_dataset_is_public() -> None:
    assert ggam.load_dataset is load_dataset
