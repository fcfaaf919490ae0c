"""Rates over a data set, all worked out by hand, and the controls beside them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ggam import load_dataset
from ggam.data.birds.dataset import synthesize
from ggam.data.birds.species import MARKS, species
from ggam.data.records import Box, FineGrainedDataset, Sample
from ggam.data.transforms import ImageTransform
from ggam.evaluation.accuracy import EvaluationError
from ggam.evaluation.annotations import Annotations, discriminative_pairs
from ggam.evaluation.frames import object_of
from ggam.evaluation.localization import (
    LocalScores,
    local_scores,
    localization_metrics,
    localize_maps,
)

# 336 is 448 · 3/4, so the crop is the middle 336/450 of the shorter side.
TRANSFORM = ImageTransform(336, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def one_hot(row: int, column: int, height: int = 4, width: int = 4) -> torch.Tensor:
    heat = torch.zeros(height, width)
    heat[row, column] = 1
    return heat


def saved(path: Path, size: tuple[int, int], orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, "grey").save(path, exif=exif)
    return path


def dataset_of(samples: list[Sample], **known: object) -> FineGrainedDataset:
    return FineGrainedDataset(
        samples,
        ("a", "b"),
        root=Path(),
        layout="test",
        split="test",
        part_names=("crown", "tail"),
        transform=TRANSFORM,
        **known,  # pyright: ignore[reportArgumentType]
    )


@pytest.fixture
def five(tmp_path: Path) -> FineGrainedDataset:
    """Five 450 × 450 pictures, whose crop is (57, 57) to (393, 393): a cell of 4 × 4 is 84 pixels.

    The box is the top left cell, with the crown in its middle; class 0 is told by its crown, class 1
    by its tail.
    """
    path = saved(tmp_path / "a.png", (450, 450))
    box, crown, centre = Box(57, 57, 84, 84), (99.0, 99.0), (225.0, 225.0)
    return dataset_of(
        [
            Sample(path, 0, box, (crown, None)),
            Sample(path, 0, box, (crown, centre)),
            Sample(path, 1, box, (crown, None)),  # its tail is not visible
            Sample(path, 1, box, (crown, (10.0, 10.0))),  # its tail is outside the crop
            Sample(path, 1, box, (crown, centre)),
        ],
        discriminative={0: (0,), 1: (1,)},
    )


def test_hand_counted_localization(five: FineGrainedDataset) -> None:
    in_box, elsewhere = one_hot(0, 0), one_hot(3, 3)
    centre = one_hot(1, 1) + one_hot(2, 2)
    maps = torch.stack([in_box, torch.zeros(4, 4), elsewhere, in_box, centre])
    report = localize_maps(maps, five)
    assert (report.pictures, report.empty, report.object_pictures, report.part_pictures) == (5, 1, 5, 3)
    assert report.on_object == pytest.approx(2 / 5)  # the empty map is a miss
    assert report.centre_on_object == 0
    assert report.on_part == pytest.approx(2 / 3)
    assert report.centre_on_part == pytest.approx(1 / 3)  # the tail of the last picture
    assert report.alpha == 0.1


def test_an_object_that_the_crop_leaves_out_is_no_miss(five: FineGrainedDataset) -> None:
    outside = Sample(five.samples[0].path, 0, Box(0, 0, 50, 50), ())
    some = dataset_of([five.samples[0], outside])
    report = localize_maps(one_hot(0, 0).expand(2, 4, 4), some)
    assert (report.pictures, report.object_pictures, report.on_object) == (2, 1, 1.0)
    scores = local_scores(one_hot(0, 0).expand(2, 4, 4), Annotations.of(some, [0, 1]))
    for metric in ("on_object", "near_object", "energy"):
        assert np.isnan(scores.values[metric]).tolist() == [False, True]


def test_alpha_widens_the_part(five: FineGrainedDataset) -> None:
    neighbour = one_hot(0, 1)[None]  # one cell, 84 pixels = 1.0 · max(w, h), to the right of the crown
    assert localize_maps(neighbour, five.subset([0]), alpha=0.99).on_part == 0
    assert localize_maps(neighbour, five.subset([0]), alpha=1.0).on_part == 1


def test_without_annotations_there_is_nothing_to_say(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", (60, 60))
    report = localize_maps(torch.ones(1, 2, 2), dataset_of([Sample(path, 0)]))
    assert (report.on_object, report.on_part, report.object_pictures, report.part_pictures) == (
        None,
        None,
        0,
        0,
    )
    assert (report.centre_on_object, report.centre_on_part) == (None, None)


def test_a_mask_counts_before_the_box_unless_it_is_empty(tmp_path: Path) -> None:
    path, mask = saved(tmp_path / "a.png", (60, 60)), tmp_path / "mask.png"
    sample = Sample(path, 0, Box(0, 0, 60, 60), mask=mask)
    drawn = Image.new("L", (60, 60))
    drawn.save(mask)
    assert object_of(sample) == sample.box
    drawn.paste(255, (0, 0, 60, 20))
    drawn.save(mask)
    report = localize_maps(torch.stack([one_hot(0, 1), one_hot(3, 1)]), dataset_of([sample, sample]))
    assert report.on_object == 0.5
    assert report.centre_on_object == 0


def test_as_many_maps_as_pictures(five: FineGrainedDataset) -> None:
    with pytest.raises(EvaluationError, match="for 5 pictures"):
        localize_maps(torch.ones(4, 2, 2), five)
    with pytest.raises(EvaluationError, match="transform"):
        localize_maps(torch.ones(5, 2, 2), five.with_transform(None))


def test_flat_metrics_by_hand(five: FineGrainedDataset) -> None:
    """All heat in the cell of the box, on every picture: a perfect map, beside the blob in the middle."""
    found = localization_metrics(one_hot(0, 0).expand(5, 4, 4).numpy(), five)
    assert found["on_object"] == found["near_object"] == found["on_any_part"] == 1
    assert found["on_part"] == pytest.approx(2 / 3)  # the last picture is told by its tail, in the centre
    assert found["centre_on_part"] == pytest.approx(1 / 3)
    assert found["centre_on_object"] == found["centre_near_object"] == 0
    assert found["maxboxacc"] == 1
    assert found["empty"] == 0
    assert 0.6 < found["energy"] < 0.9  # bilinear upsampling spreads a cell beyond itself
    assert found["energy"] > found["centre_energy"]
    # A Gaussian of σ = ¼, cut off at the crop, has (Φ(−1) − Φ(−2))² / (Φ(2) − Φ(−2))² in that corner.
    phi = [0.5 * (1 + math.erf(z / math.sqrt(2))) for z in (-2, -1, 2)]
    assert found["centre_energy"] == pytest.approx(((phi[1] - phi[0]) / (phi[2] - phi[0])) ** 2, rel=0.01)
    assert "mask_iou" not in found and "pair_energy" not in found
    assert all(0 <= value <= 1 for value in found.values())


def test_flat_metrics_agree_with_the_report(five: FineGrainedDataset) -> None:
    maps = torch.rand(5, 6, 6, generator=torch.Generator().manual_seed(3))
    maps[1] = 0
    report, found = localize_maps(maps, five), localization_metrics(maps, five)
    for name in ("on_object", "centre_on_object", "on_part", "centre_on_part"):
        assert found[name] == pytest.approx(getattr(report, name))
    assert found["empty"] == pytest.approx(report.empty / 5)


def test_no_annotations_no_metrics(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", (60, 60))
    assert localization_metrics(torch.ones(1, 2, 2), dataset_of([Sample(path, 0)])) == {}


def test_scores_do_not_depend_on_the_batches(five: FineGrainedDataset) -> None:
    maps = torch.rand(5, 6, 6, generator=torch.Generator().manual_seed(3))
    whole = local_scores(maps, Annotations.of(five, range(5)))
    batches = ([0, 1], [2, 3, 4])
    joined = LocalScores.joined([local_scores(maps[rows], Annotations.of(five, rows)) for rows in batches])
    for key, values in whole.metrics().items():
        np.testing.assert_allclose(joined.metrics()[key], values)
    np.testing.assert_allclose(joined.percentiles, whole.percentiles)


def test_pairs_of_species_are_told_by_the_parts_in_which_they_differ(tmp_path: Path) -> None:
    synthesize(tmp_path / "birds", classes=6, train_per_class=1, test_per_class=1, image_size=48)
    birds = load_dataset(tmp_path / "birds", split="test")
    table, members = discriminative_pairs(birds), species(6)
    assert table is not None and not table.diagonal(dim1=0, dim2=1).any()
    for first, second in ((0, 1), (2, 5), (4, 3)):
        marks = {mark for mark in MARKS if members[first].marks[mark] != members[second].marks[mark]}
        told = {birds.part_names[i] for i in table[first, second].nonzero().flatten().tolist()}
        assert {name.split()[-1] for name in told} == marks
    # The part that tells two neighbours is one by which each is told from those it is most like.
    own = table[2, 3].nonzero().flatten().tolist()
    assert set(own) <= set(birds.discriminative[2]) & set(birds.discriminative[3])


def test_other_data_knows_nothing_of_pairs(five: FineGrainedDataset) -> None:
    assert discriminative_pairs(five) is None
