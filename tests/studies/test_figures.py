"""The figures: what is drawn where, and as what kind of file."""

import io
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D
from PIL import Image

from ggam.studies.definition import figure4, table2, table3
from ggam.studies.figures import DARK, DPI, WIDTH, describe, draw, render
from ggam.studies.records import Failure, RunRecord
from ggam.studies.table import build_table

Measured = Callable[..., list[RunRecord]]
ROWS = {"baseline": [0.80, 0.82], "S": [0.84, 0.90], "C": [0.70]}


def lines_of(axes: Axes, marker: str) -> list[tuple[list[float], list[float]]]:
    """The points of all lines with a marker."""
    return [points(line) for line in axes.get_lines() if line.get_marker() == marker]


def points(line: Line2D) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def seeds_of(axes: Axes) -> list[Sequence[float]]:
    dots = [found for found in axes.collections if isinstance(found, PathCollection)]
    return [point for found in dots for point in np.asarray(found.get_offsets()).tolist()]


def test_each_row_with_its_mean_interval_and_seeds(measured: Measured) -> None:
    table = build_table(table3(), measured(ROWS), [Failure("SC", 0, "x")])
    (axes,) = draw(table).axes
    means = [(x[0], y[0]) for x, y in lines_of(axes, "o")]
    assert means == [(pytest.approx(81), 0), (pytest.approx(87), 1), (pytest.approx(70), 2)]
    drawn = [points(line) for line in axes.get_lines()]
    # the plain network's upright through all that are held against it, and its interval
    assert any(x == [pytest.approx(81)] * 2 and y == [-0.45, 7.45] for x, y in drawn)
    assert any(x == [pytest.approx(84), pytest.approx(90)] and y == [1, 1] for x, y in drawn)
    assert sorted(x for x, _ in seeds_of(axes)) == [pytest.approx(v) for v in (80, 82, 84, 90)]
    assert [text.get_text() for text in axes.texts] == ["failed", *["not run"] * 4]


def test_the_upright_stays_with_its_backbone(measured: Measured) -> None:
    names = ("baseline a", "ggam a", "baseline b", "ggam b")
    records = measured({name: [0.1 * number, 0.1 * number] for number, name in enumerate(names)})
    (axes,) = draw(build_table(table2(("ggam",), ("a", "b")), records)).axes
    uprights = [points(line) for line in axes.get_lines() if len(set(points(line)[1])) == 2]
    assert [y for _, y in uprights] == [[-0.45, 1.45], [1.55, 3.45]]


def test_the_curve_has_gaps_where_nothing_ran(measured: Measured) -> None:
    records = measured({"baseline": [0.5, 0.6], "SC": [0.7, 0.8], "1": [0.8, 0.9], "9": [0.4, 0.4]})
    figure = draw(build_table(figure4(), records))
    (axes,) = figure.axes
    (x, y) = next(points(line) for line in axes.get_lines() if len(points(line)[0]) == 10)
    assert x == list(range(10))
    assert y[:2] == [pytest.approx(75), pytest.approx(85)] and y[9] == pytest.approx(40)
    assert np.isnan(y[2:9]).all()
    assert axes.get_legend_handles_labels()[1] == ["plain network", "attention without guidance"]
    assert len(figure.legends) == 1


def test_a_curve_without_its_levels_has_no_legend(measured: Measured) -> None:
    assert draw(build_table(figure4(), measured({"1": [0.8]}))).legends == []


def test_files(measured: Measured) -> None:
    table = build_table(figure4(), measured({"baseline": [0.5, 0.6], "3": [0.7, 0.8]}))
    pdf, png, svg = (render(draw(table), form) for form in ("pdf", "png", "svg"))
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf  # TrueType, not outlines of each letter
    assert Image.open(io.BytesIO(png)).width == WIDTH * DPI
    assert svg.startswith(b"<?xml")
    assert [render(draw(table), form) for form in ("pdf", "png", "svg")] == [pdf, png, svg]


@pytest.mark.parametrize("study", [table3(), figure4()], ids=lambda study: study.name)
def test_nothing_measured_and_dark_colours(study) -> None:
    figure = draw(build_table(study, []), palette=DARK)
    assert [text.get_text() for text in figure.axes[0].texts] == ["no run has finished"]
    assert render(figure, "png")


def test_a_single_seed_is_its_mean(measured: Measured) -> None:
    (axes,) = draw(build_table(table3(), measured({"S": [0.5]}))).axes
    assert seeds_of(axes) == []
    assert lines_of(axes, "o") == [([50.0], [1])]


def test_in_words(measured: Measured) -> None:
    text = describe(build_table(table3(), measured(ROWS)))
    assert text.startswith(
        "top-1, mean over the seeds: plain network 81.00 %; spatial 87.00 %; channel 70.00 %; "
        "spatial + channel not run;"
    )


def test_a_study_of_the_plain_network_alone(measured: Measured) -> None:
    (axes,) = draw(build_table(table2(("baseline",)), measured({"baseline": [0.5, 0.6]}))).axes
    assert [y for x, y in map(points, axes.get_lines()) if len(set(y)) == 2] == [[-0.45, 0.45]]
