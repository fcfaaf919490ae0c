import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ggam.data.layouts.registry import detect_layout, load_dataset
from ggam.data.records import DataError

# Nodes of the hierarchy; only 295, 817 and 1010 have pictures.
NODES = {
    0: "Birds",
    1: "Ducks, Geese, and Swans",
    295: "American Black Duck",
    817: "Oak Titmouse",
    1010: "Canada Warbler",
}
CLASSES = [295, 817, 1010]
PARTS = ["bill", "crown", "nape"]


def identities(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [str(uuid.UUID(bytes=rng.bytes(16))) for _ in range(count)]


def write_nabirds(root: Path, count: int = 12) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "parts").mkdir()
    pictures = identities(count)
    numbers = [CLASSES[n % 3] for n in range(count)]
    paths = [f"{c:04d}/{i.replace('-', '')}.jpg" for i, c in zip(pictures, numbers, strict=True)]
    lists = {
        "classes.txt": [f"{number} {name}" for number, name in NODES.items()],
        "hierarchy.txt": ["1 0", "295 1", "817 0", "1010 0"],
        "images.txt": [f"{i} {path}" for i, path in zip(pictures, paths, strict=True)],
        "image_class_labels.txt": [f"{i} {c}" for i, c in zip(pictures, numbers, strict=True)],
        "train_test_split.txt": [f"{i} {int(n % 4 > 0)}" for n, i in enumerate(pictures)],
        "bounding_boxes.txt": [f"{i} {n} 20 30 40" for n, i in enumerate(pictures)],
        "sizes.txt": [f"{i} 80 90" for i in pictures],
        "parts/parts.txt": [f"{n} {name}" for n, name in enumerate(PARTS)],
        "parts/part_locs.txt": [
            f"{i} {part} {n + part} {50 + part} {int(part < 2)}"
            for n, i in enumerate(pictures)
            for part in range(3)
        ],
    }
    for name, lines in lists.items():
        (root / name).write_text("".join(f"{line}\n" for line in lines))
    return root


def test_reads_lists_boxes_parts_and_names(tmp_path: Path) -> None:
    write_nabirds(tmp_path)
    test = load_dataset(tmp_path, split="test")
    path = test.samples[1].path
    path.parent.mkdir()
    Image.new("RGB", (80, 90)).save(path)

    assert detect_layout(tmp_path) == test.layout == "nabirds"
    assert test.class_names == ("American Black Duck", "Oak Titmouse", "Canada Warbler")
    assert test.labels == [0, 1, 2]  # pictures 0, 4 and 8
    assert len(load_dataset(tmp_path, split="train")) == 9
    assert test.samples[1].box == (4, 20, 30, 40)
    assert test.part_names == tuple(PARTS)
    assert test.samples[1].parts == ((4, 50), (5, 51), None)
    assert test.samples[1].path == tmp_path / "images" / "0817" / f"{identities(12)[4].replace('-', '')}.jpg"
    assert test[1][0].size == (80, 90)


def test_the_hierarchy_tells_it_from_cub(tmp_path: Path) -> None:
    write_nabirds(tmp_path)
    (tmp_path / "hierarchy.txt").unlink()
    assert detect_layout(tmp_path) == "cub"


def test_boxes_and_parts_may_be_left_out(tmp_path: Path) -> None:
    write_nabirds(tmp_path)
    (tmp_path / "bounding_boxes.txt").unlink()
    (tmp_path / "parts" / "part_locs.txt").unlink()
    train = load_dataset(tmp_path, split="train")
    assert train.part_names == ()
    assert {(sample.box, sample.parts) for sample in train.samples} == {(None, ())}


@pytest.mark.parametrize("name", ["images.txt", "classes.txt", "train_test_split.txt", "images"])
def test_half_an_archive_is_named(tmp_path: Path, name: str) -> None:
    write_nabirds(tmp_path)
    (tmp_path / name).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"looks like nabirds, but {name} is missing"):
        load_dataset(tmp_path, split="train")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("image_class_labels.txt", (" 817", " 999"), "class 999 of picture .* is not in classes.txt"),
        ("image_class_labels.txt", (" 817", " titmouse"), "expected a number for picture"),
        ("train_test_split.txt", (" 0", ""), "line 1: expected a key and a value"),
        ("parts/part_locs.txt", (" 2 ", " 3 "), "part 3 is not in parts.txt"),
        ("bounding_boxes.txt", (" 20 30", " 20 wide"), "line 1: expected a key and 4 numbers"),
    ],
)
def test_damaged_lists_are_named(tmp_path: Path, name: str, change: tuple[str, str], message: str) -> None:
    path = write_nabirds(tmp_path) / name
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(DataError, match=f"{Path(name).name}.*{message}"):
        load_dataset(tmp_path, split="train")


def test_a_picture_without_a_class_and_one_listed_twice(tmp_path: Path) -> None:
    write_nabirds(tmp_path)
    labels, images = tmp_path / "image_class_labels.txt", tmp_path / "images.txt"
    first, *rest = labels.read_text().splitlines()
    labels.write_text("\n".join(rest))
    with pytest.raises(
        DataError, match=f"image_class_labels.txt: has no line for picture {first.split()[0]}"
    ):
        load_dataset(tmp_path, split="train")
    images.write_text(images.read_text() * 2)
    with pytest.raises(DataError, match=r"images.txt, line 13: .* appears a second time"):
        load_dataset(tmp_path, split="train")


@pytest.mark.slow
def test_full_size_lists(tmp_path: Path) -> None:
    write_nabirds(tmp_path, 48562)
    start = time.process_time()
    assert len(load_dataset(tmp_path, split="train")) == 48562 - 12141
    assert time.process_time() - start < 5
