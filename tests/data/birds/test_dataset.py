import hashlib
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ggam.data.birds.anatomy import PARTS
from ggam.data.birds.dataset import PRESETS, _Plan, synthesize
from ggam.data.birds.photo import Chance, Photo, photograph
from ggam.data.birds.scenery import scene
from ggam.data.birds.species import MARKS, MOST_SPECIES, Species, discriminative_parts, species
from ggam.data.layouts.registry import load_dataset
from ggam.data.records import DataError, FineGrainedDataset
from ggam.data.sheet import class_sheet


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five species, three training and two test pictures of each, at 96 pixels."""
    out = tmp_path_factory.mktemp("synthetic") / "birds"
    synthesize(out, classes=5, train_per_class=3, test_per_class=2, image_size=96, seed=3)
    return out


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shoot(kind: Species, seed: int, size: int = 128, *, occluded: bool = False) -> Photo:
    rngs = [np.random.default_rng((seed, stream)) for stream in range(4)]
    return photograph(kind, scene(rngs[0]), size, Chance(*rngs[1:]), occluded=occluded)


# The species


def test_each_species_differs_from_the_next_in_one_part_and_from_the_rest_in_two_or_more() -> None:
    members = species(200)
    codes = np.array([[list(MARKS[part]).index(one.marks[part]) for part in MARKS] for one in members])
    distances = (codes[:, None] != codes[None]).sum(axis=2)
    apart = np.abs(np.subtract.outer(np.arange(200), np.arange(200)))

    assert (distances[apart == 1] == 1).all()
    assert (distances[apart >= 2] >= 2).all()


def test_species_have_names_of_their_own_that_are_true_of_them() -> None:
    members = species(MOST_SPECIES)

    assert len({one.name for one in members}) == MOST_SPECIES
    for one in members:
        assert one.name.rsplit(" ", 1)[0] in {MARKS[part][mark] for part, mark in one.marks.items()}


def test_asking_for_more_species_leaves_the_first_ones_as_they_are() -> None:
    assert species(40)[:12] == species(12)


def test_the_first_species_vary_every_part_in_turn() -> None:
    told = discriminative_parts(species(len(MARKS) + 1))

    assert {part for parts in told for part in parts} == set(MARKS)
    assert [len(parts) for parts in told] == [1] + [2] * (len(MARKS) - 1) + [1]


@pytest.mark.parametrize("count", [0, MOST_SPECIES + 1])
def test_species_that_do_not_exist_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} species: expected 1 to {MOST_SPECIES}"):
        species(count)


# One picture


@pytest.mark.parametrize(
    ("part", "other"), [(part, mark) for part, marks in MARKS.items() for mark in list(marks)[1:]]
)
def test_a_mark_changes_its_part_visibly_at_128_pixels_and_nothing_elsewhere(part: str, other: str) -> None:
    plain = species(1)[0]
    marked = Species("", plain.marks | {part: other})
    names = [name for name in PARTS if name.endswith(part)]
    for seed in range(4):
        before, after = shoot(plain, seed), shoot(marked, seed)
        difference = np.abs(np.asarray(before.image, float) - np.asarray(after.image, float)).max(axis=2)
        y, x = np.nonzero(difference > 40)
        (place,) = [after.parts[name] for name in names if after.parts[name] is not None]
        assert place is not None
        distance = np.abs(x + 1j * y - place)

        assert len(distance) >= 20, "too small to be seen"
        assert distance.min() < 4, "not at its part"
        assert distance.max() < 0.25 * 128, "spread beyond its part"


def test_visible_parts_lie_on_the_bird() -> None:
    for seed in range(40):
        photo = shoot(species(40)[seed], seed)
        mask = np.asarray(photo.mask)
        assert set(np.unique(mask)) == {0, 255}
        for name, place in photo.parts.items():
            if place is not None:
                x, y = round(place.real), round(place.imag)
                assert mask[y - 2 : y + 3, x - 2 : x + 3].any(), f"{name} of {seed}"


def test_the_side_that_is_seen_is_the_one_turned_to_the_camera() -> None:
    facing = set()
    for seed in range(20):
        parts = shoot(species(1)[0], seed).parts
        beak, tail = parts["beak"], parts["tail"]
        assert beak is not None and tail is not None
        seen, hidden = ("right", "left") if beak.real > tail.real else ("left", "right")
        facing.add(seen)
        for pair in ("eye", "wing"):
            assert parts[f"{seen} {pair}"] is not None and parts[f"{hidden} {pair}"] is None
        assert parts["left leg"] is not None and parts["right leg"] is not None
    assert facing == {"left", "right"}


def test_the_whole_bird_is_inside_the_centre_crop() -> None:
    for seed in range(40):
        box = shoot(species(40)[seed], seed, 200).mask.getbbox()
        assert box is not None
        assert min(box[:2]) >= 25 and max(box[2:]) <= 175, f"{box} of {seed}"


def test_an_occluder_hides_parts_and_leaves_the_others_where_they_were() -> None:
    hidden = 0
    for seed in range(10):
        clear, covered = shoot(species(1)[0], seed), shoot(species(1)[0], seed, occluded=True)
        for name, place in covered.parts.items():
            assert place is None or place == clear.parts[name]
        hidden += sum(place is None for place in covered.parts.values())
        hidden -= sum(place is None for place in clear.parts.values())
        masks = np.asarray(covered.mask), np.asarray(clear.mask)
        assert (masks[0] <= masks[1]).all() and masks[0].sum() < masks[1].sum()
    assert hidden >= 10, "at least the part that each twig hangs over"


# The set on disk


def test_a_generated_set_is_read_as_cub(birds: Path) -> None:
    train, test = (load_dataset(birds, split=split) for split in ("train", "test"))

    assert (train.layout, len(train), len(test)) == ("cub", 15, 10)
    assert train.class_names == tuple(one.name for one in species(5))
    assert train.part_names == PARTS
    assert train.labels == sorted([0, 1, 2, 3, 4] * 3)
    for sample in [*train.samples, *test.samples]:
        assert sample.mask is not None and sample.box is not None and len(sample.parts) == len(PARTS)
        with Image.open(sample.path) as image, Image.open(sample.mask) as mask:
            assert (image.format, image.size, mask.format, mask.size) == ("JPEG", (96, 96), "PNG", (96, 96))
            left, top, right, bottom = mask.getbbox() or (0, 0, 0, 0)
        assert sample.box == (left, top, right - left, bottom - top)


def test_the_parts_that_tell_a_class_from_its_neighbours_are_written(birds: Path) -> None:
    told = load_dataset(birds, split="train").discriminative

    named = {label: {PARTS[part] for part in parts} for label, parts in told.items()}
    assert named == {
        0: {"crown"},
        1: {"crown", "left wing", "right wing"},
        2: {"left wing", "right wing", "tail"},
        3: {"tail", "throat"},
        4: {"throat"},
    }


def test_the_same_seed_gives_the_same_bytes(birds: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "again", classes=5, train_per_class=3, test_per_class=2, image_size=96, seed=3)

    assert digests(tmp_path / "again") == digests(birds)


def test_another_seed_gives_other_pictures_of_the_same_species(birds: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "other", classes=5, train_per_class=3, test_per_class=2, image_size=96, seed=4)

    one, other = digests(birds), digests(tmp_path / "other")
    assert one.keys() == other.keys() and one["classes.txt"] == other["classes.txt"]
    assert all(one[name] != other[name] for name in one if name.endswith(".jpg"))


def test_more_classes_and_pictures_leave_the_others_as_they_are(birds: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "more", classes=6, train_per_class=4, test_per_class=3, image_size=96, seed=3)

    before, after = digests(birds), digests(tmp_path / "more")
    pictures = [name for name in before if name.endswith((".jpg", ".png"))]
    assert len(pictures) == 50
    assert all(before[name] == after[name] for name in pictures)


def counts(**options: Any) -> tuple[dict[int, int], dict[int, int]]:
    """Training and test pictures of each class."""
    plan = _Plan(**{"seed": 0, "background_bias": 0.0, "occlusion": 0.0} | options)
    pictures = list(plan.pictures())
    assert plan.total == len(pictures) == len(set(pictures))
    train, test = (Counter(label for label, training, _ in pictures if training == part) for part in (1, 0))
    return dict(train), dict(test)


def test_the_preset_is_as_large_as_cub() -> None:
    train, test = counts(**PRESETS["cub"])

    assert len(train) == len(test) == 200
    assert (sum(train.values()), sum(test.values())) == (5994, 5794)
    assert set(train.values()) == {29, 30} and set(test.values()) == {28, 29}


def test_a_thinned_preset_is_its_first_classes(tmp_path: Path) -> None:
    thin: dict[str, Any] = PRESETS["cub"] | {"classes": 2, "image_size": 32}
    written = synthesize(tmp_path / "birds", **thin)

    train, test = counts(**PRESETS["cub"])
    for split, whole in (("train", train), ("test", test)):
        labels = load_dataset(tmp_path / "birds", split=split).labels
        assert Counter(labels) == {label: whole[label] for label in range(2)}
    assert written == 29 + 30 + 28 + 29


def test_options_change_the_places_but_not_the_birds(birds: Path, tmp_path: Path) -> None:
    synthesize(
        tmp_path / "own",
        classes=5,
        train_per_class=3,
        test_per_class=2,
        image_size=96,
        seed=3,
        background_bias=1,
    )

    before, after = digests(birds), digests(tmp_path / "own")
    assert before["parts/part_locs.txt"] == after["parts/part_locs.txt"]
    assert all(before[name] == after[name] for name in before if name.startswith("segmentations"))
    assert all(before[name] != after[name] for name in before if name.startswith("images/"))


def test_a_biased_class_is_in_its_own_place_in_training_and_never_in_test() -> None:
    plan = _Plan(4, 1, 1, 64, 0, 1.0, 0.0)
    draws = [np.random.default_rng(seed) for seed in range(30)]
    places = [plan._place(label, True, draws[0]) for label in range(4)]

    assert len(set(places)) == 4
    assert all(plan._place(2, True, rng) == places[2] for rng in draws)
    assert {plan._place(2, False, rng) for rng in draws} == {places[0], places[1], places[3]}


def test_the_bias_is_a_share() -> None:
    plan = _Plan(4, 1, 1, 64, 0, 0.7, 0.0)
    own = _Plan(4, 1, 1, 64, 0, 1.0, 0.0)._place(1, True, np.random.default_rng(0))
    places = [plan._place(1, True, np.random.default_rng(seed)) for seed in range(400)]

    assert 0.6 < np.mean([place == own for place in places]) < 0.8


def test_progress_is_told_after_each_picture(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    synthesize(
        tmp_path / "birds",
        classes=2,
        train_per_class=2,
        test_per_class=1,
        image_size=32,
        progress=lambda done, total: steps.append((done, total)),
    )

    assert steps == [(done, 6) for done in range(1, 7)]


@pytest.mark.parametrize("size", [32, 33, 1024])
def test_the_extreme_sizes_can_be_drawn(size: int) -> None:
    photo = shoot(species(1)[0], 0, size)

    assert photo.image.size == photo.mask.size == (size, size)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", 1),
        ("classes", 501),
        ("train_per_class", 0),
        ("test_per_class", -1),
        ("image_size", 16),
        ("image_size", 2048),
        ("seed", -1),
        ("background_bias", 1.5),
        ("occlusion", float("nan")),
    ],
)
def test_bad_numbers_are_refused_in_one_line(tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(DataError, match=rf"^{name} {value}: expected \d+ to \d+$"):
        synthesize(tmp_path / "birds", **{name: value})  # pyright: ignore[reportArgumentType]
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(birds: Path, tmp_path: Path) -> None:
    before = digests(birds)
    with pytest.raises(DataError, match="already there; choose another folder"):
        synthesize(birds)
    assert digests(birds) == before

    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="already there"):
        synthesize(tmp_path / "file")


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    synthesize(tmp_path / "empty", classes=2, train_per_class=1, test_per_class=1, image_size=32)

    assert len(load_dataset(tmp_path / "empty", split="train")) == 2


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "birds", classes=2, image_size=32, progress=interrupt)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_fifty_pictures_a_second_on_one_core(tmp_path: Path) -> None:
    start = time.process_time()
    synthesize(tmp_path / "birds", classes=4, train_per_class=40, test_per_class=10)

    assert 200 / (time.process_time() - start) >= 50


# The class sheet


def test_the_sheet_has_a_row_for_each_class_and_frames_the_discriminative_part(
    birds: Path, tmp_path: Path
) -> None:
    dataset = load_dataset(birds, split="train")
    unframed = FineGrainedDataset(
        dataset.samples, dataset.class_names, root=birds, layout="cub", split="train"
    )
    class_sheet(dataset, tmp_path / "new" / "sheet.png", per_class=2)
    class_sheet(unframed, tmp_path / "plain.png", per_class=2)

    with Image.open(tmp_path / "new" / "sheet.png") as image, Image.open(tmp_path / "plain.png") as plain:
        assert image.size == plain.size
        assert image.size[1] == pytest.approx(5 * 118, abs=10)
        framed, bare = (np.asarray(one.convert("RGB"), float) for one in (image, plain))
    changed = np.abs(framed - bare).max(axis=2) > 60
    assert all(changed[118 * row : 118 * (row + 1)].any() for row in range(5))
    assert not changed[:, :110].any(), "names stay as they are"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_the_sheet_of_a_set_without_boxes_shows_whole_pictures(squares: Path, tmp_path: Path) -> None:
    class_sheet(load_dataset(squares, split="test"), tmp_path / "sheet.png", per_class=3)

    with Image.open(tmp_path / "sheet.png") as image:
        row = np.asarray(image.convert("RGB"), float)[6 + 56]
    assert np.abs(row[118 : 118 + 112].mean(axis=0) - (50, 60, 200)).max() < 25, "blue comes first"
