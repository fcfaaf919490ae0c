"""MaxBoxAcc and mask IoU, by hand and against loops over single thresholds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from ggam.evaluation.overlap import (
    THRESHOLDS,
    Overlaps,
    mask_iou,
    max_box_acc,
    max_box_acc_v2,
    overlaps,
)


def square(left: int, top: int, right: int, bottom: int, size: int = 10) -> torch.Tensor:
    heat = torch.zeros(size, size)
    heat[top:bottom, left:right] = 1
    return heat


def flood(cells: np.ndarray) -> list[list[tuple[int, int]]]:
    """Connected cells (8 neighbours), one after the other: the oracle."""
    left, found = {tuple(cell) for cell in np.argwhere(cells)}, []
    while left:
        queue = [left.pop()]
        for row, column in queue:
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            queue += near
        found.append(queue)
    return found


def iou_of(cells: list[tuple[int, int]], target: list[float]) -> float:
    rows, columns = zip(*cells, strict=True)
    box = (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
    sides = [min(box[i + 2], target[i + 2]) - max(box[i], target[i]) for i in (0, 1)]
    both = max(sides[0], 0) * max(sides[1], 0)
    own, theirs = ((b[2] - b[0]) * (b[3] - b[1]) for b in (box, target))
    return both / (own + theirs - both)


def test_the_largest_component_and_the_best_one() -> None:
    heat = square(0, 0, 6, 6) + square(8, 8, 10, 10)
    found = overlaps(
        heat[None],
        torch.tensor([[0.8, 0.8, 1.0, 1.0]]),  # the small one
        square(8, 8, 10, 10)[None],
        torch.tensor([True]),
    )
    # τ = 0 takes everything: one component, IoU 4/100.
    assert found.largest[0, 0] == found.best[0, 0] == pytest.approx(0.04)
    assert set(found.largest[0, 1:]) == {0.0}
    assert set(found.best[0, 1:]) == {1.0}
    assert found.mask[0, 0] == pytest.approx(0.04)
    assert found.mask[0, 1] == pytest.approx(4 / 40)
    assert max_box_acc(found).tolist() == [0]
    assert max_box_acc_v2(found).tolist() == [1]


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_components_are_those_of_a_flood_fill(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    heat = torch.rand(7, 7, generator=generator) ** 4
    corners = torch.rand(2, 2, generator=generator).sort(dim=0).values
    box = corners.flatten()
    found = overlaps(heat[None], box[None], torch.zeros(1, 7, 7), torch.tensor([False]))
    level = (heat - heat.min()) / (heat.max() - heat.min())
    target = (box.double() * 7).tolist()
    for column, threshold in enumerate(THRESHOLDS.astype(np.float32)):
        parts = flood(level.numpy() >= threshold)
        ious = [iou_of(cells, target) for cells in parts]
        assert found.best[0, column] == pytest.approx(max(ious), abs=1e-6)
        area = max(map(len, parts))
        largest = [iou for iou, cells in zip(ious, parts, strict=True) if len(cells) == area]
        assert min(abs(found.largest[0, column] - iou) for iou in largest) < 1e-6
    assert np.isnan(found.mask).all()


def test_diagonal_cells_hang_together() -> None:
    heat = torch.eye(4)
    found = overlaps(heat[None], torch.tensor([[0.0, 0, 1, 1]]), heat[None], torch.tensor([True]))
    assert found.largest.min() == 1


def test_a_map_without_heat_overlaps_with_nothing_and_a_flat_one_is_the_whole_crop() -> None:
    maps = torch.stack([torch.zeros(4, 4), torch.full((4, 4), 0.3)])
    boxes = torch.tensor([[0.0, 0, 0.5, 1]]).expand(2, 4)
    mask = square(0, 0, 2, 4, size=4).expand(2, 4, 4)
    found = overlaps(maps, boxes, mask, torch.tensor([True, True]))
    for values in found:
        assert not values[0].any()
        assert set(values[1]) == {0.5}


def test_what_is_not_known_is_left_out() -> None:
    nan = float("nan")
    boxes = torch.tensor([[nan] * 4, [1.0, 0.2, 1.0, 0.4], [0.0, 0.0, 1.0, 1.0]])
    coverage = torch.full((3, 4, 4), nan)
    coverage[2] = 0.4  # nowhere half covered
    found = overlaps(torch.ones(3, 4, 4), boxes, coverage, torch.tensor([False, False, True]))
    assert np.isnan(found.largest[:2]).all() and np.isnan(found.mask).all()
    assert max_box_acc(found)[2] == 1
    assert np.isnan(max_box_acc(found)[:2]).all()
    assert np.isnan(mask_iou(found)).all()


def test_one_map_for_all_pictures_is_the_same_as_copies_of_it() -> None:
    heat = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[0.0, 0, 0.5, 0.5], [0.2, 0.4, 0.9, 1.0]])
    coverage, masked = torch.rand(2, 6, 6), torch.tensor([True, True])
    one = overlaps(heat, boxes, coverage, masked)
    copies = overlaps(heat.expand(2, 6, 6), boxes, coverage, masked)
    for first, second in zip(one, copies, strict=True):
        np.testing.assert_array_equal(first, second)


def test_thresholds_are_chosen_over_the_pictures() -> None:
    columns = len(THRESHOLDS)
    ious = np.zeros((4, columns))
    ious[:, 3] = [0.5, 0.6, 0.49, np.nan]  # two of three at 0.5
    ious[:, 9] = [0.9, 0.1, 0.1, np.nan]
    ious[3] = np.nan
    found = Overlaps(ious, ious, ious)
    assert max_box_acc(found)[:3].tolist() == [1, 1, 0]
    # At 0.3 all three (τ₃), at 0.5 the first two (τ₃), at 0.7 the first (τ₉).
    assert max_box_acc_v2(found)[:3].tolist() == pytest.approx([1, 2 / 3, 1 / 3])
    assert mask_iou(found)[:3].tolist() == [0.5, 0.6, 0.49]
    assert mask_iou(found, 9 * 0.02)[:3].tolist() == [0.9, 0.1, 0.1]
    assert np.isnan(max_box_acc_v2(found)[3])
