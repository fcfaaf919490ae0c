"""The geometry of the crop, against Pillow and by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from ggam.data.records import Box, DataError, Sample
from ggam.data.transforms import ImageTransform, upright
from ggam.evaluation.frames import Frame, discriminative_points, object_of, visible_parts

# 336 is 448 · 3/4, so the crop is the middle 336/450 of the shorter side.
TRANSFORM = ImageTransform(336, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


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


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_exif_does_not_know_turns_nothing(orientation: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", (90, 60), orientation)
    with Image.open(path) as image:
        assert upright(image).size == (90, 60)
    assert Frame.of(Sample(path, 0), TRANSFORM) == Frame(TRANSFORM.region(90, 60), 90, 60, 1)


def test_masks_that_do_not_fit_or_cannot_be_read_are_named(tmp_path: Path) -> None:
    path, mask = saved(tmp_path / "a.png", (60, 60)), tmp_path / "mask.png"
    sample = Sample(path, 0, mask=mask)
    with pytest.raises(DataError, match=r"mask\.png"):
        object_of(sample)
    Image.new("L", (30, 60)).save(mask)
    with pytest.raises(DataError, match="30×60 pixels, but its picture"):
        object_of(sample)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_and_boxes_turn_with_the_picture(orientation: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", (90, 60), orientation)
    box = Box(30, 20, 20, 12)
    mask = np.zeros((60, 90), dtype=bool)
    mask[20:32, 30:50] = True
    frame = Frame.of(Sample(path, 0), TRANSFORM)
    left, top, right, bottom = frame.box_in_crop(box).tolist()
    cells = frame.mask_in_crop(mask, 64)
    rows, columns = (cells > 0.5).numpy().nonzero()
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert [value / 64 for value in found] == pytest.approx([left, top, right, bottom], abs=1 / 64)
    assert cells.mean().item() == pytest.approx((right - left) * (bottom - top), abs=0.01)


def test_a_box_is_cut_off_at_the_crop(tmp_path: Path) -> None:
    frame = Frame.of(Sample(saved(tmp_path / "a.png", (450, 450)), 0), TRANSFORM)  # 57 to 393
    assert frame.box_in_crop(Box(0, 225, 450, 84)).tolist() == pytest.approx([0, 0.5, 1, 0.75])
    left, top, right, bottom = frame.box_in_crop(Box(0, 0, 50, 50)).tolist()
    assert (right - left) * (bottom - top) == 0


def test_parts_that_are_hidden_or_outside_have_no_place(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", (450, 450))
    sample = Sample(path, 0, parts=((225.0, 225.0), None, (10.0, 10.0)))
    frame = Frame.of(sample, TRANSFORM)
    places = visible_parts(sample, frame, 4)  # the data set names one more than the picture has
    assert places[0].tolist() == [0.5, 0.5]
    assert places[1:].isnan().all()
    assert discriminative_points(sample, frame, (0, 1, 2, 7)).tolist() == [[225.0, 225.0]]
    assert visible_parts(Sample(path, 0), frame, 0).shape == (0, 2)
    assert math.isclose(frame.side, 336)
