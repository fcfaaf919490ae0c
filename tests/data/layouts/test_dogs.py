from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ggam.data.layouts.registry import detect_layout, load_dataset
from ggam.data.records import DataError

BREEDS = ["n02085620-Chihuahua", "n02089078-black-and-tan_coonhound", "n02107142-Doberman"]
OBJECT = """<object><name>dog</name><bndbox>
\t\t\t<xmin>{}</xmin>
\t\t\t<ymin>{}</ymin>
\t\t\t<xmax>{}</xmax>
\t\t\t<ymax>{}</ymax>
\t\t</bndbox></object>"""


def write_list(path: Path, files: list[str], labels: list[int]) -> None:
    """N×1 cells of names without and with an extension, and N×1 labels, as in lists.tar."""
    columns = np.empty((2, len(files), 1), dtype=object)
    columns[0, :, 0] = files
    columns[1, :, 0] = [name.removesuffix(".jpg") for name in files]
    numbers = np.array(labels, dtype=np.float64)[:, None]
    content = {"file_list": columns[0], "annotation_list": columns[1], "labels": numbers}
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content)


def write_dogs(root: Path, lists: str = ".", per_class: dict[str, int] | None = None) -> Path:
    for split, count in (per_class or {"train": 2, "test": 1}).items():
        files, labels = [], []
        for label, breed in enumerate(BREEDS, start=1):
            for n in range(count):
                name = f"{breed}/{breed.split('-')[0]}_{n}{len(split)}.jpg"
                for folder in ("Images", "Annotation"):
                    (root / folder / breed).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (90, 70), (label, n, 0)).save(root / "Images" / name)
                objects = OBJECT.format(1, 1, 20, 20) + OBJECT.format(11, 21, 80, 60 + label)
                (root / "Annotation" / name).with_suffix("").write_text(
                    f"<annotation><size><width>90</width></size>{objects}</annotation>"
                )
                files.append(name)
                labels.append(label)
        write_list(root / lists / f"{split}_list.mat", files, labels)
    return root


@pytest.mark.parametrize("lists", [".", "lists"])
def test_reads_lists_boxes_and_names(tmp_path: Path, lists: str) -> None:
    write_dogs(tmp_path, lists)
    train, test = (load_dataset(tmp_path, split=split) for split in ("train", "test"))

    assert detect_layout(tmp_path) == train.layout == "dogs"
    assert train.class_names == test.class_names == ("Chihuahua", "black-and-tan coonhound", "Doberman")
    assert (train.labels, test.labels) == ([0, 0, 1, 1, 2, 2], [0, 1, 2])
    assert test.samples[1].box == (10, 20, 70, 42)  # the larger: columns 11 … 80, rows 21 … 62
    assert test[2][0].size == (90, 70)


def test_the_annotations_may_be_left_out_but_not_in_part(tmp_path: Path) -> None:
    write_dogs(tmp_path)
    gone = tmp_path / "Annotation" / BREEDS[1] / "n02089078_04"
    gone.unlink()
    with pytest.raises(DataError, match=r"n02089078_04: cannot be read .* annotation.tar"):
        load_dataset(tmp_path, split="test")
    gone.write_text("<annotation></annotation>")
    with pytest.raises(DataError, match=r"n02089078_04: holds no bounding box"):
        load_dataset(tmp_path, split="test")
    (tmp_path / "Annotation").rename(tmp_path / "elsewhere")
    assert {sample.box for sample in load_dataset(tmp_path, split="test").samples} == {None}


@pytest.mark.parametrize("name", ["train_list.mat", "test_list.mat", "Images"])
def test_half_an_archive_is_named(tmp_path: Path, name: str) -> None:
    write_dogs(tmp_path)
    (tmp_path / name).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"looks like dogs, but {name} is missing"):
        load_dataset(tmp_path, split="train")


def test_without_any_list(tmp_path: Path) -> None:
    write_dogs(tmp_path)
    for name in ("train_list.mat", "test_list.mat"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=r"looks like dogs, but train_list.mat and test_list.mat is missing"):
        load_dataset(tmp_path, split="train")


def test_a_class_that_train_does_not_have(tmp_path: Path) -> None:
    write_dogs(tmp_path)
    write_list(tmp_path / "test_list.mat", [f"{BREEDS[0]}/n02085620_04.jpg"], [7])
    with pytest.raises(DataError, match=r"test_list.mat: class 7 of n02085620-Chihuahua/n02085620_04.jpg"):
        load_dataset(tmp_path, split="test")
