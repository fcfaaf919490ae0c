import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ggam.data.layouts import cub
from ggam.data.layouts.registry import load_dataset
from ggam.data.records import Box, DataError

LISTS = {
    "classes.txt": "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n",
    "images.txt": "1 001.Black_footed_Albatross/a.jpg\n2 001.Black_footed_Albatross/b.jpg\n"
    "3 002.Laysan_Albatross/c.jpg\n",
    "image_class_labels.txt": "1 1\n2 1\n3 2\n",
    "train_test_split.txt": "1 0\n2 1\n3 1\n",
    "bounding_boxes.txt": "1 60.0 27.0 325.0 304.0\n2 1.0 2.0 30.0 40.0\n3 0.0 0.0 10.5 20.0\n",
    "parts/parts.txt": "1 back\n2 beak\n3 left eye\n",
    "parts/part_locs.txt": "1 1 312.0 182.0 1\n1 2 0.0 0.0 0\n1 3 186.0 45.0 1\n"
    "2 1 1.0 1.0 1\n2 2 2.0 2.5 1\n2 3 0.0 0.0 0\n3 1 0.0 0.0 0\n3 2 0.0 0.0 0\n3 3 5.0 5.0 1\n",
}


def write(root: Path, lists: dict[str, str]) -> Path:
    for name, text in lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for line in lists.get("images.txt", "").splitlines():
        picture = root / "images" / line.split(" ", 1)[1]
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), "teal").save(picture)
    return root


def test_the_official_lists_are_read(tmp_path: Path) -> None:
    root = write(tmp_path, LISTS)
    train, test = (load_dataset(root, split=split) for split in ("train", "test"))

    assert train.class_names == ("Black footed Albatross", "Laysan Albatross")
    assert train.part_names == ("back", "beak", "left eye")
    assert (train.layout, train.split, test.split) == ("cub", "train", "test")
    assert [(sample.path.name, sample.label) for sample in train.samples] == [("b.jpg", 0), ("c.jpg", 1)]
    (only,) = test.samples
    assert only.path == root / "images" / "001.Black_footed_Albatross" / "a.jpg"
    assert only.box == Box(60, 27, 325, 304)
    assert only.parts == ((312, 182), None, (186, 45))
    assert only.mask is None and train.discriminative == {}
    assert test[0][0].size == (8, 6) and test[0][1] == 0


def test_boxes_parts_and_masks_may_be_left_out(tmp_path: Path) -> None:
    needed = {name: LISTS[name] for name in cub.REQUIRED if name in LISTS}
    dataset = load_dataset(write(tmp_path, needed), split="train")

    assert dataset.part_names == () and len(dataset) == 2
    assert all(sample.box is None and sample.parts == () for sample in dataset.samples)


def test_masks_are_found_where_they_are(tmp_path: Path) -> None:
    root = write(tmp_path, LISTS)
    mask = root / "segmentations" / "002.Laysan_Albatross" / "c.png"
    mask.parent.mkdir(parents=True)
    Image.new("L", (8, 6)).save(mask)

    assert [sample.mask for sample in load_dataset(root, split="train").samples] == [None, mask]


def test_discriminative_parts_are_read_by_class(tmp_path: Path) -> None:
    root = write(tmp_path, LISTS | {"parts/discriminative_parts.txt": "1 2\n2 3 1\n"})

    assert load_dataset(root, split="train").discriminative == {0: (1,), 1: (2, 0)}


def test_a_thinned_copy_keeps_its_numbers(tmp_path: Path) -> None:
    thinned = {
        "classes.txt": "7 007.Parakeet_Auklet\n90 090.Red_breasted_Merganser\n",
        "images.txt": "400 007.Parakeet_Auklet/a.jpg\n5000 090.Red_breasted_Merganser/b.jpg\n",
        "image_class_labels.txt": "400 7\n5000 90\n",
        "train_test_split.txt": "400 1\n5000 1\n",
    }
    dataset = load_dataset(write(tmp_path, thinned), split="train")

    assert dataset.labels == [0, 1]
    assert dataset.class_names == ("Parakeet Auklet", "Red breasted Merganser")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "1 001.A\n", "image_class_labels.txt: class 2 of picture 3 is not in classes.txt"),
        ("classes.txt", "1 001.A\n1 002.B\n", "classes.txt, line 2: 1 appears a second time"),
        ("images.txt", "1 a.jpg\n2\n", "images.txt, line 2: expected a key and a value, found '2'"),
        ("images.txt", "", "images.txt: is empty"),
        ("image_class_labels.txt", "1 1\n2 1\n", "labels.txt: has no line for picture 3 of images.txt"),
        ("train_test_split.txt", "1 0\n2 1\n3 yes\n", "expected 0 or 1 for picture 3, found 'yes'"),
        ("train_test_split.txt", "1 0\n2 0\n3 0\n", "no picture belongs to the train split"),
        (
            "bounding_boxes.txt",
            "1 2 3 4 5\n2 1 1\n",
            "bounding_boxes.txt, line 2: expected a key and 4 numbers",
        ),
        ("bounding_boxes.txt", "1 2 3 4 5\n2 1 1 1 1\n", "boxes.txt: has no line for picture 3"),
        ("parts/part_locs.txt", "1 1 3 x 1\n", "part_locs.txt, line 1: expected a key and 4 numbers"),
        ("parts/part_locs.txt", "1 9 3 3 1\n", "part 9 is not in parts.txt"),
        ("parts/part_locs.txt", "8 1 3 3 1\n", "picture 8 is not in images.txt"),
        ("parts/discriminative_parts.txt", "1 4\n", "class 1 with parts 4: not in classes.txt and parts.txt"),
    ],
)
def test_lists_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    root = write(tmp_path, LISTS)
    (root / name).write_text(text)

    with pytest.raises(DataError) as caught:
        load_dataset(root, split="train")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_list_that_is_not_text_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path, LISTS)
    (root / "classes.txt").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(DataError, match=r"classes.txt: cannot be read"):
        load_dataset(root, split="train")


def test_a_forced_layout_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"images.txt, .*classes.txt is missing; a CUB folder has"):
        load_dataset(tmp_path, split="train", layout="cub")


@pytest.mark.slow
def test_the_full_lists_are_read_in_under_five_seconds(tmp_path: Path) -> None:
    """As many lines as CUB-200-2011 has, 5994 of them for training; reading looks at no picture."""
    count, classes, parts = 11_788, 200, 15
    rng = np.random.default_rng(0)
    training = set(rng.permutation(count)[:5994].tolist())
    lists = {
        "classes.txt": [f"{k + 1} {k + 1:03d}.Some_Bird_{k}" for k in range(classes)],
        "images.txt": [f"{n + 1} {n % 200 + 1:03d}.Some_Bird_{n % 200}/{n:05d}.jpg" for n in range(count)],
        "image_class_labels.txt": [f"{n + 1} {n % 200 + 1}" for n in range(count)],
        "train_test_split.txt": [f"{n + 1} {int(n in training)}" for n in range(count)],
        "bounding_boxes.txt": [f"{n + 1} 1.0 2.0 300.0 200.0" for n in range(count)],
        "parts/parts.txt": [f"{p + 1} part {p}" for p in range(parts)],
        "parts/part_locs.txt": [f"{n + 1} {p + 1} 10.0 20.0 1" for n in range(count) for p in range(parts)],
    }
    (tmp_path / "images").mkdir()
    (tmp_path / "parts").mkdir()
    for name, lines in lists.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")

    start = time.process_time()
    train, test = (load_dataset(tmp_path, split=split) for split in ("train", "test"))
    assert time.process_time() - start < 5
    assert (len(train), len(test), len(train.class_names)) == (5994, 5794, 200)
    assert all(len(sample.parts) == 15 and sample.box is not None for sample in train.samples)
