"""Intervals, and what they let one say."""

import numpy as np
import pytest

from ggam.evaluation.estimates import estimate, reading, resampled_means


def test_the_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.2, 400)
    found = estimate({"gradcam": values, "centre": values}, higher=True, seed=0)["gradcam"]
    assert found.mean == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.004)
    assert found.pictures == 400


def test_draws_are_the_same_for_every_column_and_repeatable() -> None:
    values = np.random.default_rng(0).random((30, 1))
    drawn = resampled_means(np.hstack([values, values + 1]), seed=4)
    np.testing.assert_allclose(drawn[:, 1] - drawn[:, 0], 1)
    np.testing.assert_array_equal(drawn, resampled_means(np.hstack([values, values + 1]), seed=4))


def test_pictures_without_a_value_are_left_out() -> None:
    values = np.array([1.0, np.nan, 0.0, np.nan] * 20)
    found = estimate({"gradcam": values, "centre": 0 * values}, higher=True, seed=0)["gradcam"]
    assert (found.mean, found.pictures) == (0.5, 40)
    assert 0.3 < found.low < 0.5 < found.high < 0.7
    assert found.against_centre == "better"


@pytest.mark.parametrize(
    ("shift", "higher", "verdict", "words"),
    [
        (0.1, True, "better", "beats the centre: gradcam"),
        (-0.1, True, "worse", "a blob in the centre wins"),
        (-0.1, False, "better", "beats the centre: gradcam"),
        (0.1, False, "worse", "a blob in the centre wins"),
        (0.0, True, "tied", "a blob in the centre does no worse"),
    ],
)
def test_what_is_said_of_a_difference(shift: float, higher: bool, verdict: str, words: str) -> None:
    rng = np.random.default_rng(1)
    centre = rng.random(60)
    noise = rng.normal(0, 0.05, 60)
    values = {"gradcam": centre + shift + noise - noise.mean(), "random": 0 * centre, "centre": centre}
    found = estimate(values, higher=higher, seed=0)
    assert found["gradcam"].against_centre == verdict
    assert found["centre"].against_centre == "tied"
    assert reading(found).endswith(words)
    assert ("says nothing" in reading(found)) == (verdict != "better")


def test_a_handful_of_pictures_says_nothing() -> None:
    values = {"gradcam": np.ones(9), "random": np.zeros(9), "centre": np.zeros(9)}
    found = estimate(values, higher=True, seed=0)
    assert found["gradcam"].against_centre == "tied"
    assert reading(found) == "says nothing: too few pictures"
