"""The calibration error against a naive transcription, hand-computed values and degenerate pictures."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ggam.evaluation.calibration import BINS, calibration_error


def naive(sure: np.ndarray, right: np.ndarray) -> float:
    error = 0.0
    for low in range(BINS):
        own = (sure * BINS >= low) & ((sure * BINS < low + 1) | (low == BINS - 1))
        if own.any():
            error += own.mean() * abs(right[own].mean() - sure[own].mean())
    return error


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=40))
def test_the_error_is_the_naive_one(pictures: list[tuple[float, bool]]) -> None:
    pictures = [(p, hit) for p, hit in pictures if abs(p * BINS - round(p * BINS)) > 1e-4] or [(0.5, True)]
    sure, right = np.array([p for p, _ in pictures]), np.array([hit for _, hit in pictures])
    assert calibration_error(sure, right) == pytest.approx(naive(sure, right), abs=1e-5)


def test_the_error_by_hand() -> None:
    # 0.95 and 0.97 fall into [14/15, 1]: |1 - 1.92| = 0.92. 0.39 lies in [5/15, 6/15): 0.61. 0.41
    # lies in [6/15, 7/15): 0.41.
    sure, right = np.array([0.95, 0.97, 0.39, 0.41]), np.array([True, False, True, False])
    assert calibration_error(sure, right) == pytest.approx((0.92 + 0.61 + 0.41) / 4)


def test_the_error_at_its_ends() -> None:
    assert calibration_error(np.ones(5), np.ones(5)) == 0
    assert calibration_error(np.ones(5), np.zeros(5)) == 1
    assert calibration_error(np.zeros(2), np.ones(2)) == 1


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="N ≥ 1"):
        calibration_error(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="expected"):
        calibration_error(np.zeros(2), np.zeros(3))
