"""The tables of what was measured of a model's heat maps, and in words what they do not show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ggam.evaluation.estimates import CONTROLS, FEWEST, Estimate, reading
from ggam.evaluation.explanation_report import ExplanationReport
from ggam.evaluation.metrics import FAITHFULNESS, METRICS, Metric
from ggam.explanations.explanation import MAP_TITLES

_TITLES = {**MAP_TITLES, "random": "Random cells", "centre": "Centre blob"}


@dataclass(frozen=True)
class Cell:
    """A mean in percent, its interval, and `better` or `worse` than the blob, or `tied`."""

    mean: str
    spread: str
    verdict: str


@dataclass(frozen=True)
class Row:
    """One metric of every kind of map."""

    metric: Metric
    pictures: int
    cells: tuple[Cell, ...]
    reading: str
    """What it says in words, where that is nothing; else empty."""


@dataclass(frozen=True)
class Measures:
    """One table and what is to be said of it."""

    title: str
    about: str
    kinds: tuple[str, ...]
    """The names of its columns; the last ones are the controls."""
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]


def measures(report: ExplanationReport) -> list[Measures]:
    """The tables of localisation and of faithfulness; without one that has no rows."""
    kinds = tuple(_TITLES[kind] for kind in report.values)
    estimates = report.estimates()
    groups = (
        (
            "Where the heat lies",
            "Against the boxes, parts or masks of the data set.",
            [metric for metric in estimates if metric not in FAITHFULNESS],
        ),
        (
            "Whether the answer depends on it",
            "Pixels are exchanged where the map is hot, and the probability of the class is watched.",
            [metric for metric in estimates if metric in FAITHFULNESS],
        ),
    )
    return [
        Measures(
            title,
            about,
            kinds,
            tuple(_row(metric, estimates[metric]) for metric in metrics),
            warnings({metric: estimates[metric] for metric in metrics}),
        )
        for title, about, metrics in groups
        if metrics
    ]


def warnings(estimates: Mapping[str, Mapping[str, Estimate]]) -> tuple[str, ...]:
    """Plain sentences on the metrics that a map which knows nothing of the picture wins.

    Args:
        estimates: by metric and kind, of one table.
    """
    few = [m for m, kinds in estimates.items() if max(one.pictures for one in kinds.values()) < FEWEST]
    told = [metric for metric in estimates if metric not in few]
    centre = [metric for metric in told if not _any_beats_centre(estimates[metric])]
    chance = [metric for metric in told if _random_wins(metric, estimates[metric])]
    texts = []
    if centre:
        count = f"{len(centre)} of {len(told)} measures" if len(told) > 1 else "the only measure"
        texts.append(
            f"On {count} no map of this model beats a blob in the centre of the crop ({_listed(centre)}): "
            "they say nothing about where it looks."
        )
    if chance:
        texts.append(f"Random cells do at least as well as every map on {_listed(chance)}.")
    if few:
        texts.append(f"Fewer than {FEWEST} pictures have {_listed(few)}: too few to tell anything apart.")
    return tuple(texts)


def _any_beats_centre(kinds: Mapping[str, Estimate]) -> bool:
    return any(one.against_centre == "better" for kind, one in kinds.items() if kind not in CONTROLS)


def _random_wins(metric: str, kinds: Mapping[str, Estimate]) -> bool:
    sign = 1 if METRICS[metric].higher_is_better else -1
    best = max(sign * one.mean for kind, one in kinds.items() if kind not in CONTROLS)
    return sign * kinds["random"].mean >= best


def _listed(metrics: Sequence[str]) -> str:
    return ", ".join(METRICS[metric].title for metric in metrics)


def _row(metric: str, kinds: dict[str, Estimate]) -> Row:
    cells = tuple(
        Cell(
            f"{100 * one.mean:.1f}",
            f"{100 * one.low:.1f}–{100 * one.high:.1f}",
            one.against_centre if kind not in CONTROLS else "",
        )
        for kind, one in kinds.items()
    )
    said = "" if _any_beats_centre(kinds) else reading(kinds)
    return Row(METRICS[metric], max(one.pictures for one in kinds.values()), cells, said)


def forgetting(report: ExplanationReport) -> list[list[str]]:
    """The table of the randomisation check, its header first; empty where nothing was perturbed."""
    rows = report.forgetting()
    return [["Shuffled weights", *(_TITLES[kind] for kind in rows[0][1:])], *rows[1:]] if rows else []
