import time
from pathlib import Path

import pytest
from PIL import Image

from ggam.data.layouts.registry import detect_layout, load_dataset
from ggam.data.records import DataError

VARIANTS = {"707-320": "Boeing 707", "737-200": "Boeing 737", "A300B4": "A300", "F/A-18": "F/A-18"}
MAKERS = {"Boeing 707": "Boeing", "Boeing 737": "Boeing", "A300": "Airbus", "F/A-18": "McDonnell Douglas"}


def write_aircraft(root: Path, train: int = 2, val: int = 1, test: int = 1, pictures: bool = True) -> Path:
    """The archive as unpacked: lists with and without val, three levels, boxes counted from 1."""
    data = root / "data"
    (data / "images").mkdir(parents=True)
    makers = sorted(set(MAKERS.values()))
    (data / "variants.txt").write_text("".join(f"{name}\n" for name in VARIANTS))
    (data / "families.txt").write_text("".join(f"{name}\n" for name in MAKERS))
    (data / "manufacturers.txt").write_text("".join(f"{name}\n" for name in makers))
    lists: dict[str, list[str]] = {}
    boxes = []
    for v, (variant, family) in enumerate(VARIANTS.items()):
        for n in range(train + val + test):
            identity = f"{v:02d}{n:05d}"
            splits = ["test"] if n >= train + val else ["trainval", "val" if n >= train else "train"]
            for split in splits:
                for level, name in (
                    ("variant", variant),
                    ("family", family),
                    ("manufacturer", MAKERS[family]),
                ):
                    lists.setdefault(f"images_{level}_{split}.txt", []).append(f"{identity} {name}\n")
                lists.setdefault(f"images_{split}.txt", []).append(f"{identity}\n")
            boxes.append(f"{identity} 3 11 {40 + v} 30\n")
            if pictures:
                Image.new("RGB", (60, 60), (v, n, 0)).save(data / "images" / f"{identity}.jpg")
    for name, lines in lists.items():
        (data / name).write_text("".join(lines))
    (data / "images_box.txt").write_text("".join(boxes))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_aircraft(tmp_path_factory.mktemp("aircraft"))


def test_train_is_train_and_val_together(root: Path) -> None:
    train, test = (load_dataset(root, split=split) for split in ("train", "test"))

    assert detect_layout(root) == train.layout == "aircraft"
    assert (len(train), len(test)) == (4 * 3, 4)
    assert {s.path for s in train.samples}.isdisjoint(s.path for s in test.samples)
    assert train.class_names == test.class_names == ("707-320", "737-200", "A300B4", "F/A-18")
    assert train.labels == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_boxes_count_from_zero_and_the_banner_is_known(root: Path) -> None:
    sample = load_dataset(root, split="test").samples[1]

    # Columns 3 … 41 and rows 11 … 30 of pixels counted from 1: 39 columns, 20 rows.
    assert sample.box == (2, 10, 39, 20)
    assert sample.banner == 20
    assert sample.path == root / "data" / "images" / "0100003.jpg"


@pytest.mark.parametrize(
    ("layout", "classes"),
    [
        ("aircraft-family", ("Boeing 707", "Boeing 737", "A300", "F/A-18")),
        ("aircraft-manufacturer", ("Airbus", "Boeing", "McDonnell Douglas")),
    ],
)
def test_coarser_levels_on_request(root: Path, layout: str, classes: tuple[str, ...]) -> None:
    train = load_dataset(root, split="train", layout=layout)

    assert train.layout == layout
    assert train.class_names == classes
    assert len(train) == 12
    assert train.class_names[train.labels[0]] in ("Boeing 707", "Boeing")


def test_the_data_folder_itself_will_do(root: Path) -> None:
    assert len(load_dataset(root / "data", split="train")) == 12


def test_items_are_pictures(root: Path) -> None:
    image, label = load_dataset(root, split="train")[3]
    assert image.size == (60, 60)
    assert label == 1


@pytest.mark.parametrize("name", ["images", "images_variant_test.txt", "variants.txt"])
def test_half_an_archive_is_named(tmp_path: Path, name: str) -> None:
    write_aircraft(tmp_path, pictures=False)
    gone = tmp_path / "data" / name
    gone.rmdir() if gone.is_dir() else gone.unlink()

    with pytest.raises(DataError, match=f"looks like aircraft, but data/{name} is missing"):
        load_dataset(tmp_path, split="train")
    with pytest.raises(DataError, match=name):
        for split in ("train", "test"):
            load_dataset(tmp_path, split=split, layout="aircraft")


def test_unknown_class_and_malformed_box_are_named(tmp_path: Path) -> None:
    write_aircraft(tmp_path, pictures=False)
    (tmp_path / "data" / "images_variant_test.txt").write_text("0000003 Concorde\n")
    with pytest.raises(DataError, match=r"images_variant_test.txt: class 'Concorde' of picture 0000003"):
        load_dataset(tmp_path, split="test")
    (tmp_path / "data" / "images_box.txt").write_text("0000000 1 2 3\n")
    with pytest.raises(DataError, match=r"images_box.txt, line 1: expected a key and 4 numbers"):
        load_dataset(tmp_path, split="train")


def test_without_the_boxes(tmp_path: Path) -> None:
    write_aircraft(tmp_path, pictures=False)
    (tmp_path / "data" / "images_box.txt").unlink()
    assert all(sample.box is None for sample in load_dataset(tmp_path, split="train").samples)


def test_full_size_lists(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    names = [f"{700 + n}-{n}00" for n in range(100)]
    (data / "variants.txt").write_text("\n".join(names) + "\n")
    for split, count, start in (("trainval", 6667, 0), ("train", 3334, 0), ("test", 3333, 6667)):
        lines = [f"{n:07d} {names[n % 100]}\n" for n in range(start, start + count)]
        (data / f"images_variant_{split}.txt").write_text("".join(lines))
    (data / "images_box.txt").write_text("".join(f"{n:07d} 1 1 900 500\n" for n in range(10000)))

    start = time.process_time()
    counts = [len(load_dataset(tmp_path, split=split)) for split in ("train", "test")]

    assert counts == [6667, 3333]
    assert time.process_time() - start < 5
