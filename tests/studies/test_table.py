"""The table of a study: its summaries, its families of tests, its gaps."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from ggam.studies.costs import Cost
from ggam.studies.definition import Row, Study, guidance, table2, table3
from ggam.studies.records import Failure, RunRecord
from ggam.studies.statistics import holm, paired_test
from ggam.studies.table import build_table, family_of

Measured = Callable[..., list[RunRecord]]
PLAIN, ATTENTION = "the plain network", "the same attention without guidance"


def test_summaries_and_tests_of_each_row(measured: Measured) -> None:
    values = {"baseline": [0.5, 0.6, 0.7], "S": [0.6, 0.65, 0.8], "SG": [0.4, 0.5, 0.55]}
    table = build_table(table3(), measured(values))
    assert table.metrics == ("top1",)
    result = table.result("SG")
    assert result.metrics["top1"].mean == pytest.approx(1.45 / 3)
    tests = result.comparisons["top1"]
    assert list(tests) == ["baseline", "S"]
    unguided = paired_test(dict(enumerate(values["SG"])), dict(enumerate(values["S"])))
    assert unguided is not None
    assert tests["S"] == replace(unguided, p_holm=unguided.p)  # the only one of its family
    assert table.result("baseline").comparisons["top1"] == {}
    assert table.result("SCG").comparisons["top1"] == {}
    assert table.result("SCG").metrics == {}


def test_holm_is_over_the_rows_of_each_kind_of_reference(measured: Measured) -> None:
    values = {
        "baseline": [0.5, 0.6, 0.7, 0.6],
        "S": [0.6, 0.65, 0.8, 0.61],
        "C": [0.5, 0.66, 0.8, 0.6],
        "SG": [0.4, 0.5, 0.55, 0.6],
        "CG": [0.52, 0.61, 0.8, 0.68],
    }
    table = build_table(table3(), measured(values))
    assert table.families == [PLAIN, ATTENTION]
    for family, rows in ((PLAIN, ["S", "C", "SG", "CG"]), (ATTENTION, ["SG", "CG"])):
        compared = table.compared("top1", family)
        assert [result.row.name for result, _ in compared] == rows
        assert [test.p_holm for _, test in compared] == holm([test.p for _, test in compared])


def test_references_by_what_they_are() -> None:
    study = guidance()
    families = {row.name: family_of(row) for row in study.rows}
    assert families["baseline"] == PLAIN
    assert families["SC"] == ATTENTION
    assert families["uniform"] == "the uniform target (control)"
    backbones = table2(("baseline", "ggam"), ("a", "b"))
    assert {family_of(backbones.row(name)) for row in backbones.rows for name in row.references} == {PLAIN}


def test_only_measures_that_all_runs_have(measured: Measured) -> None:
    records = [
        *measured({"baseline": [0.5]}, on_object=0.3, top5=0.9, centre_on_object=0.4, strange=7.0),
        *measured({"S": [0.5]}, top5=0.9, strange=7.0),
    ]
    assert build_table(table3(), records).metrics == ("top1", "top5")


def test_the_middle_of_the_picture_is_a_control_and_no_measure(measured: Measured) -> None:
    records = measured({"baseline": [0.5, 0.6]}, on_object=0.3, centre_on_object=0.4, on_part=0.2)
    table = build_table(table3(), records)
    assert table.metrics == ("top1", "on_object", "on_part")
    assert table.controls == {"on_object": pytest.approx(0.4)}


def test_the_mean_of_balanced_classes_is_not_said_twice(measured: Measured) -> None:
    assert build_table(table3(), measured({"S": [0.5]}, macro=0.5)).metrics == ("top1",)
    assert build_table(table3(), measured({"S": [0.5]}, macro=0.4)).metrics == ("top1", "macro")


def test_nothing_measured() -> None:
    table = build_table(table3(), [], [Failure("S", 0, "broke")])
    assert table.metrics == () and table.records == [] and len(table.rows) == 8
    assert table.result("S").failures == (Failure("S", 0, "broke"),)
    assert table.result("S").epoch_seconds is None


def test_costs_are_held_against_the_plain_network_of_the_same_backbone() -> None:
    study = table2(("ggam",), ("a", "b"))
    sizes = {"baseline a": 10, "ggam a": 12, "baseline b": 100, "ggam b": 150}
    costs = {name: Cost(size, 2 * size, 0.1 * size, 3 * size) for name, size in sizes.items()}
    table = build_table(study, [], costs=costs)
    assert [result.cost_ratio("parameters") for result in table.rows] == [1, 1.2, 1, 1.5]
    assert table.result("ggam b").cost_ratio("step_seconds") == pytest.approx(1.5)
    partly = build_table(study, [], costs={"ggam a": costs["ggam a"]})
    assert partly.result("ggam a").cost_ratio("flops") is None


def test_seconds_per_epoch(measured: Measured) -> None:
    assert build_table(table3(), measured({"S": [0.5, 0.6]})).result("S").epoch_seconds == pytest.approx(6.05)


def test_records_come_in_the_order_of_rows_and_seeds(measured: Measured) -> None:
    records = measured({"C": [0.1, 0.2], "S": [0.3, 0.4]})
    table = build_table(table3(), records[::-1])
    assert [(r.row, r.seed) for r in table.records] == [("S", 0), ("S", 1), ("C", 0), ("C", 1)]


def test_records_that_do_not_fit_are_refused(measured: Measured) -> None:
    study = Study("x", "X", (Row("a", "A", {}),), "?")
    with pytest.raises(ValueError, match="'b', but x has a"):
        build_table(study, measured({"b": [0.1]}))
    with pytest.raises(ValueError, match="second run of row 'a' with seed 0"):
        build_table(study, measured({"a": [0.1]}) * 2)
