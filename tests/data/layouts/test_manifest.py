import csv
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from PIL import Image

from ggam.data.layouts.registry import detect_layout, load_dataset
from ggam.data.records import DataError

ROWS = """path,label,split,x,y,width,height
a/1.jpg,Sanderling,train,1,2.5,30,40
b/2.png,Dunlin,train,,,,
a/3.jpg,Dunlin,test,0,0,9,9
/abs/4.jpg,Dunlin,val,,,,
"""


def write(tmp_path: Path, text: str, name: str = "birds.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return path


def test_reads_rows_boxes_and_names(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    (tmp_path / "b").mkdir()
    Image.new("RGB", (12, 34)).save(tmp_path / "b" / "2.png")
    train, test = (load_dataset(path, split=split) for split in ("train", "test"))

    assert detect_layout(path) == train.layout == "manifest"
    assert train.class_names == test.class_names == ("Dunlin", "Sanderling")
    assert (train.labels, test.labels) == ([1, 0], [0])
    assert [s.box for s in train.samples] == [(1, 2.5, 30, 40), None]
    assert train.samples[0].path == tmp_path / "a" / "1.jpg"
    assert train[1][0].size == (12, 34)


def test_without_boxes_with_other_columns_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffwho,split,label,path\nme,train,1,x.jpg\nme,test,2,/else/y.jpg\n")
    test = load_dataset(path, split="test")
    assert test.samples[0].path == Path("/else/y.jpg")
    assert test.samples[0].box is None


def test_integers_are_ordered_by_value(tmp_path: Path) -> None:
    lines = "".join(f"{n}.jpg,{n},{split}\n" for n in (10, 9, 2, 100) for split in ("train", "test"))
    train = load_dataset(write(tmp_path, "path,label,split\n" + lines), split="train")
    assert train.class_names == ("2", "9", "10", "100")
    assert train.labels == [2, 1, 0, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column path, label, split is missing; found nothing"),
        ("path,label\nx.jpg,1\n", "column split is missing; found path, label"),
        ("path,label,split,x,y\n", "only x, y of the box"),
        ("path,label,split\nx.jpg,1,train\ny.jpg,,test\n", "row 2: label is empty"),
        ("path,label,split\nx.jpg,1\n", "row 1: split is empty"),
        ("path,label,split\nx.jpg,1,Train\n", "row 1: split 'Train'; expected one of train, test, val"),
        ("path,label,split\nx.jpg,1,test\n", "no row belongs to the train split"),
        ("path,label,split,x,y,width,height\nx.jpg,1,train,1,2,3,\n", "row 1: box"),
        ("path,label,split,x,y,width,height\nx.jpg,1,train,1,2,3,-4\n", "row 1: box"),
        ("path,label,split,x,y,width,height\nx.jpg,1,train,1,2,3,nan\n", "row 1: box"),
        ("path,label,split,x,y,width,height\nx.jpg,1,train,1,2,3,wide\n", "row 1: box"),
        ('path,label,split\nx.jpg,"1,train\n', "row 1: split is empty"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=f"birds.csv: {message}"):
        load_dataset(path, split="train")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "birds.csv"
    path.write_bytes(b"path,label,split\n\xff\xfe,1,train\n")
    with pytest.raises(DataError, match=r"birds.csv: cannot be read as a manifest"):
        load_dataset(path, split="train")


def test_other_files_are_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"birds.zip: is a file; expected a folder .* manifest \(.csv"):
        load_dataset(write(tmp_path, ROWS, "birds.zip"), split="train")


@given(
    st.lists(st.sampled_from(["Dunlin", "Knot", "Ruff, female", 'the "Reeve"', "ruff\nfemale"]), min_size=1)
)
def test_what_csv_writers_write_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    path = tmp_path_factory.mktemp("any") / "m.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *((f"{n}", n, "train") for n in names)])
    train = load_dataset(path, split="train")
    assert [train.class_names[label] for label in train.labels] == [name.strip() for name in names]


def parquet_rows() -> list[dict[str, Any]]:
    box = {"x": 1, "y": 2, "width": 30, "height": 40}
    return [
        {"path": "1.jpg", "label": 10, "split": "train"} | box,
        {"path": "2.jpg", "label": 9, "split": "train"} | dict.fromkeys(box),
        {"path": "3.jpg", "label": 9, "split": "test"} | dict.fromkeys(box),
    ]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "birds.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(parquet_rows()), path)
    train = load_dataset(path, split="train")

    assert train.layout == "manifest"
    assert train.class_names == ("9", "10")
    assert train.labels == [1, 0]
    assert [s.box for s in train.samples] == [(1, 2, 30, 40), None]

    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"birds.parquet: cannot be read as Parquet"):
            load_dataset(path, split="train")
    parquet.write_table(pyarrow.Table.from_pylist([{"path": "1.jpg", "label": 10}]), path)
    with pytest.raises(DataError, match=r"birds.parquet: column split is missing"):
        load_dataset(path, split="train")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pyarrow, which is not installed; pip install 'ggam\[datasets\]'"):
        load_dataset(write(tmp_path, "", "birds.parquet"), split="train")
