from pathlib import Path

import pytest
from PIL import Image

from ggam.data.layouts.folder import EXTENSIONS
from ggam.data.layouts.registry import load_dataset
from ggam.data.records import DataError


def add(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), "olive").save(root / name)
    return root


def names(root: Path, split: str, seed: int = 0) -> set[str]:
    dataset = load_dataset(root, split=split, seed=seed)
    return {str(sample.path.relative_to(root)) for sample in dataset.samples}


def test_train_and_test_folders(tmp_path: Path) -> None:
    root = add(tmp_path, "train/02_iris/b.jpg", "train/01_daffodil/a.png", "train/02_iris/a.jpg")
    add(root, "test/01_daffodil/c.jpg", "test/02_iris/d.jpg")
    train, test = (load_dataset(root, split=split) for split in ("train", "test"))

    assert train.class_names == test.class_names == ("daffodil", "iris")
    assert (train.layout, train.split, test.split) == ("folder", "train", "test")
    assert [(sample.path, sample.label) for sample in train.samples] == [
        (root / "train/01_daffodil/a.png", 0),
        (root / "train/02_iris/a.jpg", 1),
        (root / "train/02_iris/b.jpg", 1),
    ]
    assert test.labels == [0, 1]


@pytest.mark.parametrize(
    ("folders", "used"), [(("val",), "val"), (("valid",), "valid"), (("valid", "val", "test"), "test")]
)
def test_what_serves_as_test(tmp_path: Path, folders: tuple[str, ...], used: str) -> None:
    for folder in ("train", *folders):
        add(tmp_path, f"{folder}/a/1.jpg", f"{folder}/b/1.jpg")

    assert names(tmp_path, "test") == {f"{used}/a/1.jpg", f"{used}/b/1.jpg"}
    assert names(tmp_path, "train") == {"train/a/1.jpg", "train/b/1.jpg"}


def test_one_folder_is_split_by_seed_alike_in_each_class(tmp_path: Path) -> None:
    everything = {f"{name}/{n}.png" for name, count in (("a", 10), ("b", 5)) for n in range(count)}
    add(tmp_path, *everything)
    train, test = names(tmp_path, "train"), names(tmp_path, "test")

    assert train | test == everything and not train & test
    assert sorted(name[0] for name in test) == ["a", "a", "b"]
    assert names(tmp_path, "test") == test
    assert any(names(tmp_path, "test", seed) != test for seed in range(1, 5))


def test_every_extension_in_any_case_and_folders_below_a_class(tmp_path: Path) -> None:
    for n, extension in enumerate(sorted(EXTENSIONS)):
        add(tmp_path, f"train/a/{n}{extension}", f"train/a/{n}{extension.upper()}")
    add(tmp_path, "train/b/deep/deeper/1.jpg", "train/b/0.jpg", "test/a/1.jpg", "test/b/1.jpg")
    dataset = load_dataset(tmp_path, split="train")

    assert dataset.labels.count(0) == 2 * len(EXTENSIONS) and dataset.labels.count(1) == 2
    assert all(dataset[i][0].mode == "RGB" for i in range(len(dataset)))


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    root = add(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", "a/.3.jpg", "a/._1.jpg", ".trash/1.jpg")
    add(root, "__MACOSX/1.jpg", "a/.hidden/1.jpg")
    (root / "a" / "notes.txt").write_text("not a picture")
    (root / "readme.md").write_text("nor this")
    dataset = load_dataset(root, split="train")

    assert dataset.class_names == ("a", "b")
    assert names(root, "train") | names(root, "test") == {"a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"}


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    add(tmp_path, "train/1.jpg", "train/2.jpg", "plane/1.jpg", "plane/2.jpg")

    assert load_dataset(tmp_path, split="train").class_names == ("plane", "train")


@pytest.mark.parametrize(
    ("missing_in", "other"), [("test", "train"), ("train", "test")], ids=["in test", "in train"]
)
def test_classes_that_differ_are_named(tmp_path: Path, missing_in: str, other: str) -> None:
    for split in ("train", "test"):
        add(tmp_path, f"{split}/a/1.jpg", f"{split}/b/1.jpg")
    add(tmp_path, f"{other}/c/1.jpg")

    with pytest.raises(DataError, match=rf"{other}/c: a class that .*{missing_in} does not have"):
        load_dataset(tmp_path, split="train")


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    add(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "c").mkdir()

    with pytest.raises(DataError, match=r"/c: a class without pictures \(looked for bmp gif"):
        load_dataset(tmp_path, split="train")


def test_one_class_is_none(tmp_path: Path) -> None:
    add(tmp_path, "train/a/1.jpg", "test/a/1.jpg")

    with pytest.raises(DataError, match=r"train: expected a folder for each of two classes .* only 'a'"):
        load_dataset(tmp_path, split="train")


def test_train_without_test_is_half_a_set(tmp_path: Path) -> None:
    add(tmp_path, "train/a/1.jpg", "train/b/1.jpg")

    with pytest.raises(DataError, match=r"looks like folder, but test/ is missing"):
        load_dataset(tmp_path, split="train")
    with pytest.raises(DataError, match=r"has train/ but no test/"):
        load_dataset(tmp_path, split="train", layout="folder")
