"""Overlays and panels by their pixels."""

import numpy as np
import torch
from PIL import Image

from ggam.overlays import overlay, panel


def noise(size: tuple[int, int] = (64, 64)) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def corner_heat() -> torch.Tensor:
    heat = torch.zeros(4, 4)
    heat[0, 3] = 2.5
    return heat


def test_a_map_without_heat_leaves_the_picture_as_it_is() -> None:
    picture = noise()
    for heat in (torch.zeros(3, 3), -torch.ones(3, 3), torch.full((2, 2), torch.nan)):
        shown = overlay(picture, heat)
        assert shown is not picture
        assert np.array_equal(np.asarray(shown), np.asarray(picture))


def test_the_hottest_corner_has_the_hottest_colour() -> None:
    grey = Image.new("RGB", (80, 80), (120, 120, 120))
    shown = np.asarray(overlay(grey, corner_heat())).astype(int)
    hot, cold = shown[5, 74], shown[74, 5]
    assert hot[0] > 200 and hot[1] > 180  # the bright yellow end of inferno
    assert np.ptp(cold) == 0 and cold[0] == round(0.65 * 120)  # grey and dimmed, no colour added
    assert shown.sum(axis=2).argmax() // 80 < 20 and shown.sum(axis=2).argmax() % 80 >= 60


def test_the_scale_of_a_map_does_not_matter_and_arrays_do_as_well() -> None:
    picture = noise((50, 30))
    once = np.asarray(overlay(picture, corner_heat()))
    assert once.shape == (30, 50, 3)
    assert np.array_equal(once, np.asarray(overlay(picture, 1e-9 * corner_heat().double().numpy())))


def test_alpha_zero_shows_no_heat() -> None:
    picture = Image.new("RGB", (20, 20), (200, 200, 200))
    assert np.ptp(np.asarray(overlay(picture, corner_heat(), alpha=0))) == 0


def test_a_panel_holds_the_picture_itself_and_grows_with_its_text() -> None:
    picture = noise((100, 100))
    short = panel(picture, [("Grad-CAM", corner_heat())], "one line")
    assert short.width == 2 * 100 + 3 * 16
    top = next(y for y in range(short.height) if short.getpixel((16, y)) == picture.getpixel((0, 0)))
    assert np.array_equal(np.asarray(short.crop((16, top, 116, top + 100))), np.asarray(picture))
    tall = panel(picture, [("A long title, long enough to wrap", corner_heat())], "one line\n" + "word " * 60)
    assert tall.width == short.width
    assert tall.height > short.height + 3 * 11


def test_more_than_four_tiles_make_a_second_row() -> None:
    picture = noise((60, 60))
    four = panel(picture, [("x", corner_heat())] * 3, "")
    five = panel(picture, [("x", corner_heat())] * 4, "")
    assert five.width == four.width
    assert five.height > four.height + 60


def test_endless_words_are_broken() -> None:
    picture = noise((60, 60))
    assert panel(picture, [("X" * 200, torch.zeros(2, 2))], "Y" * 500).width == 2 * 60 + 3 * 16
