"""Means over pictures with bootstrap intervals, and whether they beat a map that knows nothing."""

from typing import NamedTuple

import numpy as np

CONTROLS = ("random", "centre")
"""Maps that know nothing of the picture: random cells, and a Gaussian blob in the middle of the crop."""
RESAMPLES = 1000
"""Bootstrap samples of the pictures."""
FEWEST = 10
"""With fewer pictures a bootstrap interval is too narrow to tell anything apart."""


class Estimate(NamedTuple):
    """The mean of a metric over the pictures that it can be taken on."""

    mean: float
    low: float
    """95 % bootstrap interval over the pictures, from here …"""
    high: float
    """… to here."""
    pictures: int
    against_centre: str
    """`better`, `worse` or `tied`: the paired interval of the difference to the centre blob; `tied` too
    where there are fewer than `FEWEST` pictures."""


def estimate(values: dict[str, np.ndarray], *, higher: bool, seed: int) -> dict[str, Estimate]:
    """Means and intervals of one metric, every kind of map held against `centre` on the same pictures.

    Args:
        values: by kind of map, per picture (N,); NaN where a picture has nothing to measure.
        higher: whether more is better.
        seed: of the bootstrap.
    """
    columns = np.stack(list(values.values()), axis=1)
    columns = columns[~np.isnan(columns).all(axis=1)]
    drawn = resampled_means(columns, seed)
    centre = drawn[:, list(values).index("centre")]
    return {
        kind: Estimate(
            mean=float(np.nanmean(column)),
            low=float(np.nanpercentile(means, 2.5)),
            high=float(np.nanpercentile(means, 97.5)),
            pictures=int((~np.isnan(column)).sum()),
            against_centre=_verdict(means - centre, higher) if len(columns) >= FEWEST else "tied",
        )
        for kind, column, means in zip(values, columns.T, drawn.T, strict=True)
    }


def reading(estimates: dict[str, Estimate]) -> str:
    """What a metric says of the maps, in words: nothing, unless one of them beats the blob in the centre."""
    if max(one.pictures for one in estimates.values()) < FEWEST:
        return "says nothing: too few pictures"
    maps = {kind: one.against_centre for kind, one in estimates.items() if kind not in CONTROLS}
    better = [kind for kind, verdict in maps.items() if verdict == "better"]
    if better:
        return f"beats the centre: {', '.join(better)}"
    how = "wins" if all(verdict == "worse" for verdict in maps.values()) else "does no worse"
    return f"says nothing here: a blob in the centre {how}"


def resampled_means(values: np.ndarray, seed: int) -> np.ndarray:
    """Means over pictures drawn anew with replacement, `RESAMPLES` times, the same draws for every column.

    Args:
        values: (N, M); NaN where a picture has no value.
        seed: of the draws.

    Returns:
        (RESAMPLES, M).
    """
    count = len(values)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    known = ~np.isnan(values)
    number = drawn @ known.astype(np.float64)
    sums = drawn @ np.where(known, values, 0)
    return np.divide(sums, number, out=np.full(sums.shape, np.nan), where=number > 0)


def _verdict(differences: np.ndarray, higher: bool) -> str:
    low, high = np.nanpercentile(differences if higher else -differences, [2.5, 97.5])
    return "better" if low > 0 else "worse" if high < 0 else "tied"
