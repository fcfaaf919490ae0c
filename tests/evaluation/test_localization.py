"""Peaks, hits and rates, all worked out by hand; geometry against bilinear upsampling and Pillow."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageOps
from torch import nn
from torch.nn.functional import interpolate

from ggam import create_model
from ggam.data.records import Box, DataError, FineGrainedDataset, Sample
from ggam.data.transforms import ImageTransform
from ggam.evaluation.accuracy import EvaluationError
from ggam.evaluation.localization import (
    Frame,
    localize,
    localize_maps,
    object_of,
    part_hit,
    peak,
    pointing_game,
)

# 336 is 448 · 3/4, so the crop is the middle 336/450 of the shorter side.
TRANSFORM = ImageTransform(336, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def one_hot(row: int, column: int, height: int = 4, width: int = 4) -> torch.Tensor:
    heat = torch.zeros(height, width)
    heat[row, column] = 1
    return heat


def test_the_peak_is_the_centre_of_the_hottest_cell() -> None:
    maps = torch.stack([one_hot(0, 0, 2, 4), one_hot(1, 3, 2, 4)])
    assert peak(maps).tolist() == [[0.125, 0.25], [0.875, 0.75]]


def test_tied_cells_share_the_peak() -> None:
    pair = one_hot(1, 1) + one_hot(1, 2)
    assert peak(torch.stack([pair, torch.ones(4, 4)])).tolist() == [[0.5, 0.375], [0.5, 0.5]]


def test_a_map_without_heat_has_no_peak() -> None:
    maps = torch.stack([torch.zeros(3, 3), -torch.ones(3, 3), torch.full((3, 3), math.nan)])
    assert peak(maps).isnan().all()
    assert peak(torch.zeros(0, 3, 3)).shape == (0, 2)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), height=st.integers(1, 9), width=st.integers(1, 9))
def test_the_peak_is_where_the_upsampled_map_is_highest(seed: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(1, height, width, generator=generator, dtype=torch.float64)
    scale = 7  # odd, so that a pixel of the large map lies right on each cell's centre
    large = interpolate(maps[None], scale_factor=scale, mode="bilinear", align_corners=False)[0, 0]
    x, y = peak(maps)[0].tolist()
    column, row = round(x * width * scale - 0.5), round(y * height * scale - 0.5)
    assert large[row, column].item() == pytest.approx(large.max().item())


def test_boxes_include_their_edges() -> None:
    peaks = torch.tensor([[10.0, 20.0], [30.0, 60.0], [30.1, 30.0], [math.nan, math.nan]])
    assert pointing_game(peaks, [Box(10, 20, 20, 40)] * 4).tolist() == [True, True, False, False]


def test_masks_are_read_at_the_pixel_under_the_peak() -> None:
    mask = np.zeros((4, 6), dtype=bool)
    mask[1, 2] = mask[3, 5] = True
    peaks = torch.tensor([[2.0, 1.0], [2.99, 1.99], [3.0, 1.0], [6.0, 4.0], [7.0, 1.0], [-0.5, 1.0]])
    hits = pointing_game(peaks, [mask] * 6)
    assert hits.tolist() == [True, True, False, True, False, False]


def test_a_part_is_hit_within_its_radius() -> None:
    peaks = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [math.nan, math.nan]])
    nan = math.nan
    parts = torch.tensor(
        [
            [[3.0, 4.0], [nan, nan]],
            [[3.0, 4.0], [9.0, 9.0]],
            [[nan, nan], [nan, nan]],
            [[0.0, 0.0], [1.0, 1.0]],
        ]
    )
    assert part_hit(peaks, parts, torch.tensor([5.0, 4.9, 99.0, 99.0])).tolist() == [
        True,
        False,
        False,
        False,
    ]


def saved(path: Path, size: tuple[int, int], orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, "grey").save(path, exif=exif)
    return path


def test_the_crop_lies_in_the_middle_and_above_the_banner(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", (900, 470))
    frame = Frame.of(Sample(path, 0, banner=20), TRANSFORM)  # 900 × 450 without the banner: crop 336
    corners = frame.to_picture(torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]]))
    expected = torch.tensor([[282.0, 57.0], [618.0, 393.0], [450.0, 225.0]], dtype=torch.float64)
    torch.testing.assert_close(corners, expected)
    torch.testing.assert_close(frame.to_crop(corners)[:2].round(), torch.tensor([[0.0, 0], [1, 1]]).double())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_pictures_are_followed_back_to_their_stored_pixels(orientation: int, tmp_path: Path) -> None:
    stored = Image.new("L", (90, 60))
    stored.paste(255, (70, 10, 74, 14))  # a mark at (72, 12)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    stored.save(path, exif=exif)
    with Image.open(path) as image:
        seen = np.asarray(ImageOps.exif_transpose(image))
    rows, columns = (seen > 127).nonzero()
    upright = torch.tensor([columns.mean() + 0.5, rows.mean() + 0.5], dtype=torch.float64)
    frame = Frame.of(Sample(path, 0), TRANSFORM)
    side = frame.region.right - frame.region.left
    fraction = (upright - torch.tensor(frame.region[:2], dtype=torch.float64)) / side
    mark = torch.tensor([72.0, 12.0], dtype=torch.float64)
    torch.testing.assert_close(frame.to_picture(fraction), mark)
    torch.testing.assert_close(frame.to_crop(mark), fraction)


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


def test_masks_that_do_not_fit_or_cannot_be_read_are_named(tmp_path: Path) -> None:
    path, mask = saved(tmp_path / "a.png", (60, 60)), tmp_path / "mask.png"
    sample = Sample(path, 0, mask=mask)
    with pytest.raises(DataError, match=r"mask\.png"):
        object_of(sample)
    Image.new("L", (30, 60)).save(mask)
    with pytest.raises(DataError, match="30×60 pixels, but its picture"):
        object_of(sample)


def test_as_many_maps_as_pictures(five: FineGrainedDataset) -> None:
    with pytest.raises(EvaluationError, match="for 5 pictures"):
        localize_maps(torch.ones(4, 2, 2), five)
    with pytest.raises(EvaluationError, match="transform"):
        localize_maps(torch.ones(5, 2, 2), five.with_transform(None))


def test_localize_scores_the_models_own_maps(five: FineGrainedDataset) -> None:
    torch.manual_seed(0)
    model = create_model(nn.Conv2d(3, 4, 84, stride=84), class_names=("a", "b"), image_size=336)
    done: list[int] = []
    report = localize(model, five, batch_size=2, on_batch=lambda count, total: done.append(count))
    assert done == [2, 4, 5]
    assert report.pictures == 5
    assert report.part_pictures == 3
