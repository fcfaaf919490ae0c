"""Overlays and panels by their pixels."""

import io

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ggam.drawing.layout import render
from ggam.drawing.overlays import TILE_INCHES, as_pictures, colour_bar, encoded, overlay, panel


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
    assert np.ptp(cold) == 0 and cold[0] == round(0.72 * 120)  # grey and dimmed, no colour added
    assert shown.sum(axis=2).argmax() // 80 < 20 and shown.sum(axis=2).argmax() % 80 >= 60


def test_the_scale_of_a_map_does_not_matter_and_arrays_do_as_well() -> None:
    picture = noise((50, 30))
    once = np.asarray(overlay(picture, corner_heat()))
    assert once.shape == (30, 50, 3)
    assert np.array_equal(once, np.asarray(overlay(picture, 1e-9 * corner_heat().double().numpy())))


def test_pictures_are_what_the_model_saw() -> None:
    """Normalised by hand: black is (0 - 0.5)/0.25 = -2, white +2; the mean of a checkerboard is grey."""
    mean, std = (0.5,) * 3, (0.25,) * 3
    board = torch.tensor([[-2.0, 2.0], [2.0, -2.0]]).repeat(2, 2).expand(1, 3, 4, 4)
    (small,) = as_pictures(board, mean, std, 1)
    assert small.getpixel((0, 0)) in ((127,) * 3, (128,) * 3)
    (same,) = as_pictures(board, mean, std, 4)
    assert same.getpixel((0, 0)) == (0, 0, 0) and same.getpixel((1, 0)) == (255, 255, 255)


def test_a_picture_as_a_file() -> None:
    with Image.open(io.BytesIO(encoded(noise(), "PNG"))) as stored:
        assert stored.format == "PNG" and np.array_equal(np.asarray(stored), np.asarray(noise()))


def test_the_colour_bar_runs_from_grey_to_the_hottest_colour() -> None:
    bar = np.asarray(colour_bar()).astype(int)
    assert bar.shape[1] == 256 and np.ptp(bar, axis=0).max() == 0  # the same from top to bottom
    assert np.ptp(bar[0, 0]) == 0 and (np.diff(bar[0, :, 0]) >= -1).all() and bar[0, -1, 0] > 200


def test_alpha_zero_shows_no_heat() -> None:
    picture = Image.new("RGB", (20, 20), (200, 200, 200))
    assert np.ptp(np.asarray(overlay(picture, corner_heat(), alpha=0))) == 0


def test_edges_of_the_picture_stay_visible_under_the_hottest_spot() -> None:
    checks = np.kron(np.indices((8, 8)).sum(axis=0) % 2, np.ones((10, 10)))
    picture = Image.fromarray((255 * checks).astype(np.uint8)).convert("RGB")
    shown = np.asarray(overlay(picture, torch.ones(4, 4)), dtype=float).mean(axis=2)
    light, dark = shown[checks == 1].mean(), shown[checks == 0].mean()
    assert light - dark > 60


def pixels(figure: Figure, dpi: int = 160) -> Image.Image:
    return Image.open(io.BytesIO(render(figure, "png", dpi))).convert("RGB")


def test_a_panel_shows_the_picture_and_grows_with_its_text() -> None:
    picture = Image.new("RGB", (320, 320), (10, 200, 30))
    short = panel(picture, [("Grad-CAM", corner_heat())], "one line")
    shown = np.asarray(pixels(short))
    same = (shown == (10, 200, 30)).all(axis=2)
    assert abs(same.sum() - 320 * 320) < 2 * 4 * 320  # but for its rim
    tall = panel(picture, [("A long title, long enough to wrap it", corner_heat())], "line\n" + "word " * 60)
    assert tall.get_size_inches()[0] == short.get_size_inches()[0]
    assert tall.get_size_inches()[1] > short.get_size_inches()[1] + 3 * 9 / 72


@pytest.mark.parametrize(("maps", "columns", "rows"), [(1, 2, 1), (3, 4, 1), (4, 3, 2), (5, 3, 2), (8, 3, 3)])
def test_rows_of_at_most_four_evenly_filled(maps: int, columns: int, rows: int) -> None:
    width, height = panel(noise(), [("x", corner_heat())] * maps, "").get_size_inches()
    assert int(width // TILE_INCHES) == columns
    assert int(height // TILE_INCHES) == rows


def test_the_resolution_sets_the_pixels_and_not_the_inches() -> None:
    figure = panel(noise(), [("x", corner_heat())], "caption")
    once, twice = pixels(figure, 100), pixels(figure, 200)
    assert twice.width == pytest.approx(2 * once.width, abs=2)
    assert Image.open(io.BytesIO(render(figure, "png", 200))).info["dpi"] == pytest.approx(
        (200, 200), abs=0.1
    )


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_panel_says_the_maximum_of_each_map_or_that_it_is_empty() -> None:
    figure = panel(noise(), [("a", corner_heat()), ("b", torch.zeros(3, 3))], "said below")
    assert {"Picture", "a", "b", "max 2.5", "empty: nowhere above zero", "said below", "max", "0"} <= set(
        words(figure)
    )
    bare = panel(noise(), [], "")
    assert "max" not in words(bare)  # no map, no colour bar


def test_endless_words_are_broken() -> None:
    figure = panel(noise(), [("X" * 200, torch.zeros(2, 2))], "Y" * 500)
    assert "".join(text for text in words(figure) if set(text) == {"X"}) == "X" * 200
    renderer = FigureCanvasAgg(figure).get_renderer()
    right = figure.bbox.width
    assert all(text.get_window_extent(renderer).x1 <= right for text in figure.axes[0].texts)


def test_a_pdf_keeps_its_text_and_is_the_same_each_time() -> None:
    figure = panel(noise(), [("Grad-CAM: $5 bird_of_prey", corner_heat())], "σ × 日本")
    content = render(figure, "pdf", 100)
    assert content.startswith(b"%PDF") and b"/FontFile2" in content
    assert content == render(figure, "pdf", 100)
