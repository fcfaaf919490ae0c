"""Peaks, hits, shares and ranks of one heat map, all worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn.functional import interpolate

from ggam.data.records import Box
from ggam.evaluation.heat import (
    centre_map,
    discs,
    heat_share,
    part_hit,
    peak,
    percentiles,
    pointing_game,
    resample,
    scaled,
)

NAN = math.nan


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


@settings(max_examples=40)
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


def test_the_tolerance_is_a_distance_in_pixels() -> None:
    box, mask = Box(10, 10, 10, 10), np.zeros((30, 30), dtype=bool)
    mask[10:20, 10:20] = True
    peaks = torch.tensor([[7.0, 6.0], [7.0, 15.0], [25.0, 15.0], [NAN, NAN]])
    # To the box: 5 (3 across, 4 down), 3 and 5; to the mask's nearest pixel centre: 5.70, 3.54 and 5.52.
    assert pointing_game(peaks, [box] * 4, 5).tolist() == [True, True, True, False]
    assert pointing_game(peaks, [box] * 4, 4.9).tolist() == [False, True, False, False]
    assert pointing_game(peaks, [mask] * 4, 5.6).tolist() == [False, True, True, False]
    assert pointing_game(peaks, [mask] * 4, 5.8).tolist() == [True, True, True, False]


def test_scaling_leaves_neither_flat_nor_empty_maps_undefined() -> None:
    maps = torch.stack([torch.tensor([[1.0, 3.0], [2.0, 1.0]]), torch.full((2, 2), 0.7), torch.zeros(2, 2)])
    assert scaled(maps).tolist() == [[[0, 1], [0.5, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]]


def test_the_share_of_the_heat_in_a_region() -> None:
    heat = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]).expand(4, 2, 2).clone()
    heat[1] = 0
    region = torch.zeros(4, 2, 2)
    region[:, 1, 1] = 1
    region[:, 0, 1] = 0.5
    region[2] = NAN
    region[3] = 0
    share = heat_share(heat, region)
    assert share[:2].tolist() == [pytest.approx(0.5), 0.0]  # (4 + ½ · 2)/10; no heat is a miss
    assert share[2:].isnan().all()  # nothing known, nothing in the crop


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-6, 1e6))
def test_a_share_does_not_depend_on_the_scale_and_adds_up(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    heat = torch.rand(3, 6, 6, generator=generator, dtype=torch.float64)
    region = torch.rand(3, 6, 6, generator=generator, dtype=torch.float64)
    share = heat_share(heat, region)
    torch.testing.assert_close(heat_share(scale * heat, region), share)
    torch.testing.assert_close(share + heat_share(heat, 1 - region), torch.ones(3, dtype=torch.float64))


def test_discs_around_the_chosen_points() -> None:
    points = torch.tensor([[[0.5, 0.5], [0.0, 0.0]], [[NAN, NAN], [1.0, 1.0]]], dtype=torch.float64)
    chosen = torch.tensor([[True, False], [True, True]])
    radii = torch.tensor([0.25, NAN], dtype=torch.float64)
    cells = discs(points, chosen, radii, 4)
    # Centres lie at 1/8, 3/8, …: from the middle to the four inner ones it is √2/8 = 0.177.
    expected = torch.zeros(4, 4)
    expected[1:3, 1:3] = 1
    assert torch.equal(cells[0], expected)
    assert not cells[1].any()
    tiny = discs(points[:1], chosen[:1], torch.tensor([1e-9], dtype=torch.float64), 3)
    assert torch.equal(tiny[0], one_hot(1, 1, 3, 3))


def test_the_rank_of_the_heat_at_a_point() -> None:
    heat = torch.tensor([[[0.0, 0.0], [1.0, 5.0]]]).expand(2, 2, 2).clone()
    heat[1] = 0
    points = torch.tensor([[0.9, 0.9], [0.1, 0.9], [0.1, 0.1], [1.0, 0.0], [NAN, NAN]], dtype=torch.float64)
    ranks = percentiles(heat, points.expand(2, 5, 2))
    assert ranks[0, :4].tolist() == [0.875, 0.625, 0.25, 0.25]  # less heat, plus half of those alike
    assert ranks[1, :4].tolist() == [0.5] * 4  # an empty map says nothing
    assert ranks[:, 4].isnan().all()
    assert percentiles(heat, torch.zeros(2, 0, 2)).shape == (2, 0)


def test_resampling_is_bilinear_and_cuts_off_what_is_negative() -> None:
    maps = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    expected = interpolate(maps[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0].clamp(min=0)
    torch.testing.assert_close(resample(maps, 8), expected)


def test_the_centre_control_peaks_in_the_middle_and_is_symmetric() -> None:
    blob = centre_map(6)
    assert peak(blob).tolist() == [[0.5, 0.5]]
    torch.testing.assert_close(blob, blob.flip(1))
    torch.testing.assert_close(blob, blob.transpose(1, 2))
    # At one sigma (a quarter of the side) from the middle: between the cells at 1/12 and 3/12.
    assert blob[0, 0, 3] / blob[0, 2, 3] == pytest.approx(math.exp(-((5 / 12) ** 2 - (1 / 12) ** 2) * 8))
