"""The canvas by its pixels: what is drawn lies where it was put, in points from the top left."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from ggam.drawing.layout import Canvas, render, wrap


def pixels(canvas: Canvas, height: float, dpi: int = 72) -> np.ndarray:
    """(h, w, 3) of int; at 72 dpi a point is a pixel."""
    content = render(canvas.cut(height), "png", dpi)
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def canvas(width: float = 60) -> Canvas:
    return Canvas(width, size=8, line=10)


def extent(figure: Any, text: str) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a line, in points from the top left, at 72 dpi."""
    figure.set_dpi(72)
    found = next(shown for shown in figure.axes[0].texts if shown.get_text() == text)
    box, height = found.get_window_extent(FigureCanvasAgg(figure).get_renderer()), figure.bbox.height
    return box.x0, height - box.y1, box.x1, height - box.y0


def test_a_picture_fills_its_place_and_nothing_else() -> None:
    sheet = canvas()
    sheet.show(Image.new("RGB", (3, 3), (200, 10, 10)), 10, 5, 20, 30)
    shown = pixels(sheet, 50)
    assert shown.shape == (50, 60, 3)
    red = (shown == (200, 10, 10)).all(axis=2)
    assert red[5:35, 10:30].all() and red.sum() == 20 * 30
    assert (shown[~red] == 255).all()


def test_lines_stand_below_one_another_where_they_were_put() -> None:
    sheet = canvas(100)
    assert sheet.write(10, 5, "one", "two", ink="black") == 25
    assert sheet.write(90, 50, ink="black") == 50  # no line at all
    sheet.write(90, 60, "three", ink="black", ha="right", va="baseline")
    figure = sheet.cut(80)
    left, top, _, _ = extent(figure, "one")
    assert (left, top) == pytest.approx((10, 5), abs=1)
    assert extent(figure, "two")[1] - top == pytest.approx(10, abs=1)
    _, _, right, bottom = extent(figure, "three")
    assert right == pytest.approx(90, abs=1)
    assert bottom == pytest.approx(60, abs=3)


def test_marks_lie_in_fractions_of_the_picture_and_rings_end_with_it() -> None:
    sheet = canvas(120)
    sheet.show(Image.new("RGB", (2, 2), "grey"), 10, 10, 100, 100)
    sheet.mark(10, 10, 100, (0.2, 0.3, 0.8, 0.9), [(1.0, 0.5, 0.2)])
    shown = pixels(sheet, 120, dpi=288)
    bright = (shown > 200).min(axis=2)[40:440, 40:440]  # the picture, 4 pixels to a point
    for row, column in ((0.3, 0.5), (0.9, 0.5), (0.6, 0.2), (0.6, 0.8), (0.5, 0.8)):
        y, x = round(400 * row), round(400 * column)
        assert bright[y - 3 : y + 4, x - 3 : x + 4].any()
    assert not bright[200:230, 20:70].any()
    assert (shown[:, 446:] == 255).all(), "the ring ends where the picture does"


def test_no_marks_draw_nothing() -> None:
    sheet = canvas()
    sheet.mark(0, 0, 50, None, ())
    assert (pixels(sheet, 50) == 255).all()


def test_equal_canvases_give_equal_files_and_a_pdf_keeps_its_text() -> None:
    def draw(form: Any) -> bytes:
        sheet = canvas()
        sheet.show(Image.new("RGB", (3, 3), "teal"), 10, 15, 20, 20)
        sheet.write(3, 3, "$5 日本", ink="black")
        sheet.write(12, 20, "on it", ink="black", halo="white")
        return render(sheet.cut(50), form, 100)

    assert draw("png") == draw("png")
    pdf = draw("pdf")
    assert pdf == draw("pdf") and pdf.startswith(b"%PDF") and b"/FontFile2" in pdf


def test_text_is_broken_at_blanks_and_shortened() -> None:
    assert wrap("", 50, 8) == [""]
    assert wrap("a b", 1000, 8) == ["a b"]
    lines = wrap("red crowned tarrin in the wood", 60, 8)
    assert len(lines) > 1 and " ".join(lines) == "red crowned tarrin in the wood"
    assert wrap("red crowned tarrin in the wood", 120, 16) == lines, "only the ratio matters"
    assert wrap("red crowned tarrin in the wood", 60, 8, len(lines)) == lines
    assert wrap("red crowned tarrin in the wood", 60, 8, 1) == [f"{lines[0]}…"]


@given(st.lists(st.text("iMW.", min_size=1), min_size=1), st.floats(10, 100))
def test_no_line_is_wider_than_allowed_and_no_letter_is_lost(words: list[str], width: float) -> None:
    lines = wrap(" ".join(words), width, 8)
    assert "".join(lines).replace(" ", "") == "".join(words)
    # A second pass finds nothing to break.
    assert all(wrap(line, width, 8) == [line] for line in lines)
