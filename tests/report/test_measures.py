"""The tables of what heat maps are worth, and the sentences where a control wins."""

import numpy as np
import pytest

from ggam.data.records import FineGrainedDataset
from ggam.evaluation.estimates import Estimate, reading
from ggam.evaluation.explanations import evaluate_explanations
from ggam.methods.base import FineGrainedModel
from ggam.report.measures import Measures, measures


def kinds(map_mean: float, verdict: str, random_mean: float, pictures: int = 50) -> dict[str, Estimate]:
    means = {"gradcam": (map_mean, verdict), "random": (random_mean, "worse"), "centre": (0.5, "tied")}
    return {kind: Estimate(mean, mean, mean, pictures, how) for kind, (mean, how) in means.items()}


def warnings(estimates: dict[str, dict[str, Estimate]]) -> list[str]:
    return Measures("", "", estimates).warnings()


def test_no_warning_where_a_map_beats_both_controls() -> None:
    assert warnings({"energy": kinds(0.9, "better", 0.1), "deletion": kinds(0.1, "better", 0.4)}) == []


def test_a_control_that_wins_is_named() -> None:
    found = warnings(
        {
            "on_object": kinds(0.4, "worse", 0.1),
            "energy": kinds(0.9, "better", 0.1),
            "deletion": kinds(0.3, "better", 0.2),
        }
    )
    assert found == [
        "On 1 of 3 measures no map of this model beats a blob in the centre of the crop (peak on the "
        "object): they say nothing about where it looks.",
        "Random cells do at least as well as every map on deletion.",
    ]


def test_too_few_pictures_are_said_to_be_too_few() -> None:
    found = warnings({"insertion": kinds(0.4, "tied", 0.1, pictures=9)})
    assert found == ["Fewer than 10 pictures have insertion: too few to tell anything apart."]


def test_tables_of_a_measured_model(
    models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    report = evaluate_explanations(models["ggam"], annotated, perturbed=2)
    local, faithful = measures(report)
    assert list(faithful.estimates) == ["insertion", "deletion", "average_drop", "increase"]
    energy = local.estimates["energy"]
    assert list(energy)[-2:] == ["random", "centre"]
    assert energy["gradcam"].mean == pytest.approx(np.nanmean(report.values["gradcam"]["energy"]))
    assert local.said("energy") == "says nothing: too few pictures"
    better = Measures("", "", {"energy": kinds(0.9, "better", 0.1), "deletion": kinds(0.4, "worse", 0.1)})
    assert (better.said("energy"), better.said("deletion")) == ("", reading(better.estimates["deletion"]))


def test_nothing_perturbed_leaves_one_table(
    models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    report = evaluate_explanations(models["baseline"], annotated, perturbed=0)
    assert [table.title for table in measures(report)] == ["Where the heat lies"]
