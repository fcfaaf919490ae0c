"""The tables of what was measured of a model's heat maps, and in words what they do not show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ggam.evaluation.estimates import CONTROLS, FEWEST, Estimate, reading
from ggam.evaluation.explanation_report import ExplanationReport
from ggam.evaluation.metrics import FAITHFULNESS, METRICS
from ggam.explanations.explanation import MAP_TITLES

KIND_TITLES = {**MAP_TITLES, "random": "Random cells", "centre": "Centre blob"}
"""What people call the kinds of map, the controls among them."""


@dataclass(frozen=True)
class Measures:
    """One table of measures."""

    title: str
    about: str
    estimates: Mapping[str, dict[str, Estimate]]
    """By metric and kind."""

    def said(self, metric: str) -> str:
        """In words, that a metric says nothing; empty where a map beats the blob in the centre."""
        kinds = self.estimates[metric]
        beaten = any(one.against_centre == "better" for kind, one in kinds.items() if kind not in CONTROLS)
        return "" if beaten else reading(kinds)

    def warnings(self) -> list[str]:
        """Plain sentences on the metrics that a map which knows nothing of the picture wins."""
        few = [m for m, kinds in self.estimates.items() if max(e.pictures for e in kinds.values()) < FEWEST]
        told = [metric for metric in self.estimates if metric not in few]
        centre = [metric for metric in told if self.said(metric)]
        chance = [metric for metric in told if self._random_wins(metric)]
        texts = []
        if centre:
            count = f"{len(centre)} of {len(told)} measures" if len(told) > 1 else "the only measure"
            texts.append(
                f"On {count} no map of this model beats a blob in the centre of the crop "
                f"({_listed(centre)}): they say nothing about where it looks."
            )
        if chance:
            texts.append(f"Random cells do at least as well as every map on {_listed(chance)}.")
        if few:
            texts.append(f"Fewer than {FEWEST} pictures have {_listed(few)}: too few to tell anything apart.")
        return texts

    def _random_wins(self, metric: str) -> bool:
        kinds, sign = self.estimates[metric], 1 if METRICS[metric].higher_is_better else -1
        best = max(sign * one.mean for kind, one in kinds.items() if kind not in CONTROLS)
        return sign * kinds["random"].mean >= best


def measures(report: ExplanationReport) -> list[Measures]:
    """The tables of localisation and of faithfulness; without one that has no rows."""
    found = report.estimates()
    local = {metric: kinds for metric, kinds in found.items() if metric not in FAITHFULNESS}
    faithful = {metric: kinds for metric, kinds in found.items() if metric in FAITHFULNESS}
    perturbed = "Pixels are exchanged where the map is hot, and the probability of the class is watched."
    tables = [
        Measures("Where the heat lies", "Against the boxes, parts or masks of the data set.", local),
        Measures("Whether the answer depends on it", perturbed, faithful),
    ]
    return [table for table in tables if table.estimates]


def _listed(metrics: Sequence[str]) -> str:
    return ", ".join(METRICS[metric].title for metric in metrics)
