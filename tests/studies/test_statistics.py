"""Summaries, paired tests and Holm's correction against closed forms, enumeration and other routes."""

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from ggam.studies.statistics import PairedTest, Summary, holm, paired_test, summarize

shares = st.floats(0, 1).map(lambda value: round(value, 4))


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_summary_by_hand() -> None:
    found = summarize([0.8, 0.9, 1.0])
    assert (found.mean, found.n) == (pytest.approx(0.9), 3)
    assert found.std == pytest.approx(0.1)  # √((0.01 + 0 + 0.01) / 2)


def test_one_value_has_no_spread() -> None:
    assert summarize([0.7]) == Summary(0.7, None, None, None, 1)


def test_no_value_is_refused() -> None:
    with pytest.raises(ValueError, match="one for each seed"):
        summarize([])


def test_equal_values_have_a_spread_of_nothing() -> None:
    assert summarize([0.5] * 4) == Summary(0.5, 0.0, 0.5, 0.5, 4)


def test_two_values_span_their_interval() -> None:
    found = summarize([0.2, 0.6])
    assert (found.low, found.high) == (pytest.approx(0.2), pytest.approx(0.6))


def test_the_interval_is_that_of_all_possible_resamples() -> None:
    values = [0.81, 0.84, 0.9, 0.86]
    means = [float(np.mean(draw)) for draw in product(values, repeat=4)]
    found = summarize(values)
    # 10,000 of the 256 equally likely resamples: near the quantiles of them all
    assert found.low == pytest.approx(np.percentile(means, 2.5), abs=0.004)
    assert found.high == pytest.approx(np.percentile(means, 97.5), abs=0.004)


@given(st.lists(shares, min_size=2, max_size=8))
@settings(max_examples=25)
def test_the_interval_holds_the_mean_and_repeats(values: list[float]) -> None:
    found = summarize(values)
    assert found == summarize(values)
    assert found.low is not None and found.high is not None
    assert min(values) - 1e-12 <= found.low <= found.mean + 1e-12
    assert found.mean - 1e-12 <= found.high <= max(values) + 1e-12


def test_two_seeds_by_hand() -> None:
    """Differences 1 and 3: mean 2, s = √2, t = 2; with one degree of freedom t is Cauchy."""
    found = paired_test(by_seed(11, 13), by_seed(10, 10))
    assert found is not None and found.low is not None and found.high is not None
    assert found.difference == 2
    assert found.p == pytest.approx(1 - 2 * math.atan(2) / math.pi)
    reach = math.tan(math.pi * 0.475)  # the Cauchy quantile at 0.975, times s/√2 = 1
    assert (found.low, found.high) == (pytest.approx(2 - reach), pytest.approx(2 + reach))


def test_three_seeds_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, s = 1, t = 2√3; for two degrees of freedom p = 1 - t/√(2 + t²)."""
    found = paired_test(by_seed(1, 2, 3), by_seed(0, 0, 0))
    assert found is not None
    assert found.p == pytest.approx(1 - 2 * math.sqrt(3) / math.sqrt(14))


@given(st.lists(st.tuples(shares, shares), min_size=2, max_size=8))
@settings(max_examples=50)
def test_against_students_formula_and_its_mirror(pairs: list[tuple[float, float]]) -> None:
    row, reference = by_seed(*(a for a, _ in pairs)), by_seed(*(b for _, b in pairs))
    found, mirrored = paired_test(row, reference), paired_test(reference, row)
    assert found is not None and mirrored is not None
    assert mirrored.difference == pytest.approx(-found.difference)
    assert mirrored.p == (None if found.p is None else pytest.approx(found.p))
    differences = np.array([a - b for a, b in pairs])
    if np.ptp(differences) > 1e-6:
        error, freedom = differences.std(ddof=1) / math.sqrt(len(pairs)), len(pairs) - 1
        reach = stats.t.ppf(0.975, freedom) * error
        assert found.p == pytest.approx(2 * stats.t.sf(abs(found.difference) / error, freedom), rel=1e-6)
        assert found.low == pytest.approx(found.difference - reach, abs=1e-9)
        assert found.high == pytest.approx(found.difference + reach, abs=1e-9)


def test_only_shared_seeds_count() -> None:
    found = paired_test({0: 1.0, 1: 2.0, 7: 100.0}, {7: 1.0, 8: 5.0})
    assert found == PairedTest(99.0, None, None, None, 1)
    assert paired_test({0: 1.0}, {1: 1.0}) is None


def test_rows_that_are_the_same_do_not_differ() -> None:
    assert paired_test(by_seed(0.1, 0.2), by_seed(0.1, 0.2)) == PairedTest(0.0, None, None, 1.0, 2)


@pytest.mark.parametrize("step", [0.1, 1 / 3, 1e-3])
def test_a_constant_difference_cannot_be_tested(step: float) -> None:
    reference = by_seed(0.1, 0.7, 0.9)  # in floats the differences vary by rounding: t would be 1e15
    found = paired_test({seed: value + step for seed, value in reference.items()}, reference)
    assert found is not None
    assert found.difference == pytest.approx(step)
    assert (found.low, found.high, found.p, found.n) == (None, None, None, 3)


def test_holm_by_hand() -> None:
    # sorted 0.01 · 4, 0.02 · 3, 0.03 · 2, 0.04 · 1 = 0.04, 0.06, 0.06, 0.04 → never falling
    assert holm([0.03, 0.01, None, 0.04, 0.02]) == [
        pytest.approx(0.06),
        pytest.approx(0.04),
        None,
        pytest.approx(0.06),
        pytest.approx(0.06),
    ]
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([None, 0.2]) == [None, 0.2]
    assert holm([]) == []


@given(st.lists(st.one_of(st.none(), shares), max_size=6))
@settings(max_examples=60)
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float | None]) -> None:
    """A hypothesis falls where Bonferroni rejects every set of hypotheses it belongs to."""
    tested = [index for index, p in enumerate(p_values) if p is not None]

    def closed(index: int) -> float:
        sets = (s for size in range(1, len(tested) + 1) for s in combinations(tested, size) if index in s)
        return max(min(1.0, len(s) * min(p_values[i] or 0.0 for i in s)) for s in sets)

    for index, corrected in enumerate(holm(p_values)):
        assert corrected == (pytest.approx(closed(index)) if index in tested else None)
