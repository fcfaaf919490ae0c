"""The tables of what heat maps are worth, and the sentences where a control wins."""

import numpy as np
import pytest

from ggam.data.records import FineGrainedDataset
from ggam.evaluation.estimates import Estimate
from ggam.evaluation.explanations import evaluate_explanations
from ggam.methods.base import FineGrainedModel
from ggam.report.measures import forgetting, measures, warnings


def kinds(map_mean: float, verdict: str, random_mean: float, pictures: int = 50) -> dict[str, Estimate]:
    means = {"gradcam": (map_mean, verdict), "random": (random_mean, "worse"), "centre": (0.5, "tied")}
    return {kind: Estimate(mean, mean, mean, pictures, how) for kind, (mean, how) in means.items()}


def test_no_warning_where_a_map_beats_both_controls() -> None:
    assert warnings({"energy": kinds(0.9, "better", 0.1), "deletion": kinds(0.1, "better", 0.4)}) == ()


def test_a_control_that_wins_is_named() -> None:
    found = warnings(
        {
            "on_object": kinds(0.4, "worse", 0.1),
            "energy": kinds(0.9, "better", 0.1),
            "deletion": kinds(0.3, "better", 0.2),
        }
    )
    assert found == (
        "On 1 of 3 measures no map of this model beats a blob in the centre of the crop (peak on the "
        "object): they say nothing about where it looks.",
        "Random cells do at least as well as every map on deletion.",
    )


def test_too_few_pictures_are_said_to_be_too_few() -> None:
    found = warnings({"insertion": kinds(0.4, "tied", 0.1, pictures=9)})
    assert found == ("Fewer than 10 pictures have insertion: too few to tell anything apart.",)


def test_tables_of_a_measured_model(
    models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    report = evaluate_explanations(models["ggam"], annotated, perturbed=2)
    local, faithful = measures(report)
    assert local.kinds[0] == "Grad-CAM" and local.kinds[-2:] == ("Random cells", "Centre blob")
    assert [row.metric.title for row in faithful.rows] == [
        "insertion",
        "deletion",
        "average drop",
        "increase",
    ]
    energy = next(row for row in local.rows if row.metric.title == "heat on the object")
    mean = np.nanmean(report.values["gradcam"]["energy"])
    assert float(energy.cells[0].mean) == pytest.approx(100 * mean, abs=0.051)
    assert energy.pictures == 9
    assert energy.reading == "says nothing: too few pictures"
    assert [cell.verdict for cell in energy.cells][-2:] == ["", ""]
    header, *rows = forgetting(report)
    assert header[:2] == ["Shuffled weights", "Grad-CAM"] and len(rows) == 5


def test_nothing_perturbed_leaves_one_table(
    models: dict[str, FineGrainedModel], annotated: FineGrainedDataset
) -> None:
    report = evaluate_explanations(models["baseline"], annotated, perturbed=0)
    assert [table.title for table in measures(report)] == ["Where the heat lies"]
    assert forgetting(report) == []
