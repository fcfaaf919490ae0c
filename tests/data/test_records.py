from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from ggam.data.layouts.registry import load_dataset
from ggam.data.records import (
    DataError,
    FineGrainedDataset,
    Sample,
    hold_out,
    limit_per_class,
    readable_names,
    stratified_split,
)
from ggam.data.transforms import ImageTransform

labels_of = st.lists(st.integers(0, 6), max_size=80)
fractions = st.floats(0, 1, exclude_max=True)
seeds = st.integers(0, 2**31)


def dataset_of(labels: list[int]) -> FineGrainedDataset:
    """Samples that are told apart by their path; no picture is there."""
    samples = [Sample(Path(f"{n}.jpg"), label) for n, label in enumerate(labels)]
    return FineGrainedDataset(
        samples,
        tuple(f"class {k}" for k in range(7)),
        root=Path("root"),
        layout="folder",
        split="train",
        part_names=("beak", "tail"),
        discriminative={0: (1,)},
    )


# Splits


@given(labels_of, fractions, seeds)
def test_a_split_shares_the_indices_out(labels: list[int], fraction: float, seed: int) -> None:
    kept, held_out = stratified_split(labels, fraction, seed)

    assert sorted(kept + held_out) == list(range(len(labels)))
    assert kept == sorted(kept) and held_out == sorted(held_out)
    assert (kept, held_out) == stratified_split(labels, fraction, seed)


@given(labels_of, st.floats(0.001, 1, exclude_max=True), seeds)
def test_each_class_gives_its_share_but_never_its_last(labels: list[int], fraction: float, seed: int) -> None:
    kept, held_out = stratified_split(labels, fraction, seed)
    left, given_up = Counter(labels[i] for i in kept), Counter(labels[i] for i in held_out)

    for label, count in Counter(labels).items():
        assert left[label] >= 1
        assert given_up[label] >= min(1, count - 1)
        assert abs(given_up[label] - fraction * count) <= 1


@given(labels_of, seeds)
def test_a_share_of_nothing_holds_nothing_out(labels: list[int], seed: int) -> None:
    assert stratified_split(labels, 0, seed) == (list(range(len(labels))), [])


@given(labels_of.filter(lambda labels: len(labels) > 1), fractions, seeds)
def test_what_a_class_gives_does_not_depend_on_the_other_classes(
    labels: list[int], fraction: float, seed: int
) -> None:
    one = labels[0]
    alone = [n for n, label in enumerate(labels) if label == one]
    held_out = stratified_split(labels, fraction, seed)[1]

    chosen = stratified_split([one] * len(alone), fraction, seed)[1]
    assert [alone[n] for n in chosen] == [n for n in held_out if labels[n] == one]


def test_the_seed_draws_the_split() -> None:
    splits = {tuple(stratified_split([0] * 30, 0.3, seed)[1]) for seed in range(10)}
    assert len(splits) == 10


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match=f"fraction {fraction}: expected a share from 0 to below 1"):
        stratified_split([0, 0], fraction, 0)


def test_hold_out_keeps_what_is_known_of_the_set() -> None:
    dataset = dataset_of([0, 0, 0, 0, 1, 1, 1, 1])
    train, val = hold_out(dataset, 0.25, 0)

    assert (len(train), len(val), train.split, val.split) == (6, 2, "train", "val")
    assert sorted(val.labels) == [0, 1]
    for part in (train, val):
        assert part.class_names == dataset.class_names and part.part_names == dataset.part_names
        assert part.discriminative == {0: (1,)} and part.layout == "folder" and part.root == Path("root")
    assert len(hold_out(dataset, 0, 0)[1]) == 0


@given(labels_of, st.integers(1, 12), seeds)
def test_a_limit_keeps_that_many_of_each_class_in_their_order(
    labels: list[int], count: int, seed: int
) -> None:
    dataset = dataset_of(labels)
    limited = limit_per_class(dataset, count, seed)

    assert Counter(limited.labels) == {label: min(count, n) for label, n in Counter(labels).items()}
    order = [dataset.samples.index(sample) for sample in limited.samples]
    assert order == sorted(order)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(DataError, match="0 pictures per class: expected at least 1"):
        limit_per_class(dataset_of([0]), 0, 0)


# Names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["001.Black_footed_Albatross", "002.Laysan_Albatross"],
            ("Black footed Albatross", "Laysan Albatross"),
        ),
        (["01_daffodil", "03_lily_of_the_valley"], ("daffodil", "lily of the valley")),
        (["1-iris", "2 tulip"], ("iris", "tulip")),
        (["737-200", "747-400"], ("737-200", "747-400")),
        (["1_2", "2_3"], ("1 2", "2 3")),
        (["0", "1"], ("0", "1")),
        (["cat", "01_dog"], ("cat", "01 dog")),
        (["01_cat", "02_cat"], ("01 cat", "02 cat")),
        (["a_b", "a b"], ("a_b", "a b")),
        (["1.Çam_ağacı", "2.Éclair"], ("Çam ağacı", "Éclair")),
        (["_", "a"], ("_", "a")),
    ],
)
def test_names_are_made_readable(names: list[str], expected: tuple[str, ...]) -> None:
    assert readable_names(names) == expected


@given(st.lists(st.text("a1_. -", min_size=1, max_size=6), unique=True, min_size=1, max_size=6))
def test_names_stay_distinct(names: list[str]) -> None:
    readable = readable_names(names)
    assert len(set(readable)) == len(names) and all(readable)


# Items


def test_items_are_pictures_without_a_transform_and_tensors_with_one(squares: Path) -> None:
    dataset = load_dataset(squares, split="train")
    transform = ImageTransform(32, (0.5,) * 3, (0.25,) * 3)

    picture, label = dataset[0]
    assert (picture.mode, picture.size, label) == ("RGB", (40, 40), 0)
    assert dataset.with_transform(transform)[0][0].shape == (3, 32, 32)
    assert dataset.with_transform(transform).with_transform(None)[0][0] == picture


def damaged(folder: Path) -> dict[str, Path]:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        folder / "a.jpg"
    )
    whole = (folder / "a.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is not a picture")
    (folder / "folder.jpg").mkdir()
    return {name: folder / f"{name}.jpg" for name in ("truncated", "empty", "text", "folder", "missing")}


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "folder", "missing"])
@pytest.mark.parametrize("transformed", [False, True])
def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, kind: str, transformed: bool) -> None:
    path = damaged(tmp_path)[kind]
    transform = ImageTransform(16, (0.5,) * 3, (0.25,) * 3) if transformed else None
    dataset = FineGrainedDataset(
        [Sample(path, 0)], ("a",), root=tmp_path, layout="folder", split="train", transform=transform
    )

    with pytest.raises(DataError, match=f"{kind}.jpg: cannot be read as a picture"):
        dataset[0]
