"""Numbers as text, small pictures, and charts, worked out by hand."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ggam.drawing.charts import confusion_chart, line_chart
from ggam.drawing.pages import PICTURE_BYTES, counted, data_uri, interval, percent
from ggam.report.cards import heat_tile, marked


def test_shares_as_text() -> None:
    assert percent(0.915) == "91.5\N{NO-BREAK SPACE}%"
    assert percent(None) == "–"


def test_one_picture_is_one_picture() -> None:
    assert [counted(number, "picture") for number in range(3)] == ["0 pictures", "1 picture", "2 pictures"]


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    [(0.0, 10, 0.0, 27.8), (1.0, 10, 72.2, 100.0), (0.5, 100, 40.4, 59.6), (0.9, 20, 69.9, 97.2)],
)
def test_wilson_intervals(share: float, count: int, low: float, high: float) -> None:
    """The values of Wilson's interval in tables and textbooks, to one decimal."""
    assert [float(number) for number in re.findall(r"[\d.]+", interval(share, count))] == [low, high]


def test_pictures_stay_small_whatever_they_show() -> None:
    rng = np.random.default_rng(0)
    for side in (40, 208):
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        head, _, data = data_uri(noise).partition(",")
        assert head == "data:image/jpeg;base64"
        raw = base64.b64decode(data)
        assert len(raw) <= PICTURE_BYTES
        with Image.open(io.BytesIO(raw)) as image:
            assert image.size == (side, side)


def test_marks_are_drawn_where_they_belong() -> None:
    grey = Image.new("RGB", (100, 100), "grey")
    ring = np.asarray(marked(grey, rings=((0.5, 0.5, 0.2),))).astype(int)
    changed = np.abs(ring - np.asarray(grey)).sum(axis=2) > 30
    rows, columns = changed.nonzero()
    radii = np.hypot(rows + 0.5 - 50, columns + 0.5 - 50)
    assert radii.min() > 17 and radii.max() < 26
    cross = np.asarray(marked(grey, cross=(0.25, 0.75))).astype(int)
    rows, columns = (np.abs(cross - np.asarray(grey)).sum(axis=2) > 30).nonzero()
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((75, 25), abs=0.2)


def test_an_empty_map_is_called_empty() -> None:
    grey = Image.new("RGB", (50, 50), "grey")
    empty, full = (heat_tile(grey, heat, "Grad-CAM", "alt") for heat in (np.zeros((2, 2)), np.eye(2)))
    assert (empty.title, empty.alt) == ("Grad-CAM (empty)", "alt (the map is empty)")
    assert (full.title, full.alt) == ("Grad-CAM", "alt")


def svg(markup: str) -> ElementTree.Element:
    found = re.search(r"<svg.*</svg>", markup, re.DOTALL)
    assert found
    return ElementTree.fromstring(found[0])


def test_a_chart_holds_its_points_in_order_and_scale() -> None:
    series = {"up": [(1, 0.0), (2, 0.5), (3, 1.0)], "flat": [(1, 0.5), (3, 0.5)], "none": []}
    markup = line_chart(series, label="Accuracy", percent=True, marked=2)
    lines = svg(markup).findall("polyline")
    assert len(lines) == 2
    up, flat = ([tuple(map(float, p.split(","))) for p in line.attrib["points"].split()] for line in lines)
    assert [x for x, _ in up] == pytest.approx([52, 231, 410])
    assert up[0][1] > up[1][1] > up[2][1]  # upwards is a smaller y
    assert up[1][1] == pytest.approx(flat[0][1])
    assert "100 %" in markup and "up" in markup and "none" not in markup
    assert 'class="marked"' in markup


@pytest.mark.parametrize(
    "values", [[0.0], [0.0, 0.0], [5.0, 5.0], [1e-9, 2e-9], [-3.0, 4.0], [1e6, 1e6 + 1], [0.1, 0.3]]
)
def test_a_scale_holds_all_values_whatever_they_are(values: list[float]) -> None:
    markup = line_chart({"line": list(enumerate(values, start=1))}, label="x")
    for point in svg(markup).findall("polyline")[0].attrib["points"].split():
        x, y = map(float, point.split(","))
        assert 52 <= x <= 410 and 10 <= y <= 196


def test_a_chart_without_points_is_nothing() -> None:
    assert line_chart({"line": []}, label="x") == ""


def test_names_cannot_break_out_of_a_chart() -> None:
    nasty = '<b onload="x">&'
    assert nasty not in line_chart({nasty: [(1, 1.0)]}, label=nasty)
    svg(line_chart({"line": [(1, 1.0)]}, label=nasty))
    assert nasty not in confusion_chart(np.eye(2, dtype=int), [nasty, "b"])


def test_the_matrix_has_a_cell_for_each_count() -> None:
    matrix = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 2]])
    root = svg(confusion_chart(matrix, ["a", "b", "c"]))
    cells = {rect[0].text: rect.attrib for rect in root}
    assert sorted(cells, key=str) == ["a → a: 3", "a → b: 1", "c → c: 2"]
    assert cells["a → b: 1"]["class"] == "wrong" and cells["a → a: 3"]["class"] == "right"
    assert (cells["a → b: 1"]["x"], cells["a → b: 1"]["y"]) == ("1", "0")
    assert float(cells["a → b: 1"]["fill-opacity"]) == pytest.approx(0.5)  # the root of a quarter
