"""What is said of a study is no more than its statistics say."""

from collections.abc import Callable

import pytest

from ggam.studies.costs import Cost
from ggam.studies.definition import Row, Study, figure4, table2, table3
from ggam.studies.records import Failure, RunRecord
from ggam.studies.table import build_table
from ggam.studies.wording import (
    answer,
    claim_columns,
    comparison_columns,
    cost_columns,
    heat_columns,
    opening,
    p_text,
    provisional,
    result_columns,
)

Measured = Callable[..., list[RunRecord]]
PLAIN = Row("baseline", "plain network", {"method": "baseline"})
NBSP = "\N{NO-BREAK SPACE}"


def pair(*others: Row) -> Study:
    return Study("pair", "A pair", (PLAIN, *others), "Which?")


ONE = pair(Row("a", "row A", {}, ("baseline",)))
BASE = [0.50, 0.52, 0.51, 0.53, 0.50]


def shifted(*steps: float) -> list[float]:
    return [value + step for value, step in zip(BASE, steps, strict=True)]


def test_a_clear_gain(measured: Measured) -> None:
    table = build_table(ONE, measured({"baseline": BASE, "a": shifted(0.10, 0.11, 0.10, 0.11, 0.105)}))
    (text,) = answer(table, "top1")
    assert text.startswith(f"Better than the plain network: row A by 10.50{NBSP}points [9.88, 11.12] (Holm-")
    assert text.endswith(f"p{NBSP}<{NBSP}0.001).")


def test_a_clear_loss_and_a_row_that_does_not_differ(measured: Measured) -> None:
    study = pair(Row("a", "row A", {}, ("baseline",)), Row("b", "row B", {}, ("baseline",)))
    values = {
        "baseline": BASE,
        "a": shifted(-0.10, -0.11, -0.10, -0.11, -0.105),
        "b": shifted(0.01, -0.01, 0.02, -0.02, 0.0),
    }
    (text,) = answer(build_table(study, measured(values)), "top1")
    assert f"Worse than the plain network: row A by 10.50{NBSP}points [9.88, 11.12]" in text
    assert "No other row differs from the plain network beyond what chance in training explains" in text
    assert "still leave room for −1.96 to +1.96 points" in text


def test_less_loss_is_better(measured: Measured) -> None:
    records = [
        *measured({"baseline": [0.5]}, loss=2.0),
        *measured({"a": [0.5]}, loss=1.0),
    ]
    more = [
        RunRecord(
            r.row, seed, r.run, r.protocol, {**r.metrics, "loss": r.metrics["loss"] + jitter}, 1.0, 1, {}
        )
        for r in records
        for seed, jitter in ((0, 0.0), (1, 0.001 if r.row == "a" else 0.0), (2, 0.002))
    ]
    (text,) = answer(build_table(ONE, more), "loss")
    assert text.startswith("Better than the plain network: row A by 1.000 [0.998, 1.001]")


def test_no_difference_is_not_called_equality(measured: Measured) -> None:
    table = build_table(ONE, measured({"baseline": BASE, "a": shifted(0.01, -0.01, 0.02, -0.02, 0.0)}))
    (text,) = answer(table, "top1")
    assert text.startswith(
        "No row differs from the plain network beyond what chance in training explains (Holm-corrected"
    )
    assert "leave room for" in text


@pytest.mark.parametrize("other", [[0.9], [0.6, 0.62]])
def test_what_cannot_be_tested_is_not_claimed(measured: Measured, other: list[float]) -> None:
    """One seed, and two with the same difference."""
    table = build_table(ONE, measured({"baseline": BASE[: len(other)], "a": other}))
    (text,) = answer(table, "top1")
    assert "cannot be tested" in text and "etter" not in text


def test_rows_without_a_shared_seed(measured: Measured) -> None:
    table = build_table(ONE, measured({"a": [0.5, 0.6]}))
    assert answer(table, "top1") == [
        "Nothing can be held against the plain network yet: no row shares a seed with it."
    ]


def test_nothing_measured() -> None:
    assert answer(build_table(ONE, []), "") == ["No run has finished yet: there is nothing to say."]
    assert opening(build_table(ONE, [])) == ""


def test_where_the_plain_network_stands(measured: Measured) -> None:
    table = build_table(ONE, measured({"baseline": [0.8, 0.9]}))
    assert opening(table) == f"Plain network: top-1 85.00 ± 7.07{NBSP}%, 2 seeds."
    assert opening(build_table(table2(("ggam",), ("a", "b")), [])) == ""


def test_what_is_missing_is_said(measured: Measured) -> None:
    whole = build_table(ONE, measured({"baseline": BASE, "a": BASE}))
    assert provisional(whole) == ""
    uneven = build_table(ONE, measured({"baseline": BASE, "a": BASE[:3]}), [Failure("a", 3, "x")])
    assert provisional(uneven).startswith("Not all rows have finished with the same seeds")
    assert "1 run failed" in provisional(uneven)
    half = build_table(ONE, measured({"baseline": BASE}))
    assert provisional(half).startswith("1 of 2 rows have no finished run (row A).")


def test_cells_of_results(measured: Measured) -> None:
    records = measured({"baseline": [0.8, 0.9], "S": [0.7]})
    table = build_table(table3(), records, [Failure("C", 0, "x"), Failure("S", 1, "x")])
    label, seeds, top1 = result_columns(table)
    assert label.cells[:3] == ("plain network", "spatial", "channel")
    assert seeds.cells[:4] == ("2", "1 (1 failed)", "1 failed", "not run")
    assert top1.title == "top-1 %"
    assert top1.cells[:3] == ("85.00 ± 7.07", "70.00", "–")
    assert top1.details[:3] == ("80.00 to 90.00", "", "")


def test_cells_of_comparisons(measured: Measured) -> None:
    table = build_table(table3(), measured({"baseline": [0.5, 0.5], "S": [0.6, 0.7], "C": [0.6, 0.6]}))
    columns = comparison_columns(table, "top1")
    assert [column.title for column in columns] == [
        "",
        "difference to plain network, points",
        "p",
        "p, Holm",
        "difference to same attention without guidance, points",
        "p",
        "p, Holm",
    ]
    # d = 10, 20: mean 15, s/√2 = 5, Cauchy quantile 12.706
    assert columns[1].cells[:4] == ("–", "+15.00 [−48.53, +78.53]", "+10.00", "–")
    assert columns[2].cells[:4] == ("–", "0.205", "–", "–")
    assert p_text(0.00099) == f"<{NBSP}0.001"


def test_where_the_heat_lies_ends_with_the_control(measured: Measured) -> None:
    table = build_table(table3(), measured({"S": [0.5]}, on_part=0.25, centre_on_part=0.125))
    label, on_part = heat_columns(table)
    assert (label.cells[-1], on_part.cells[-1]) == ("always the middle of the picture", "12.50")
    assert [column.title for column in result_columns(table)] == ["", "seeds", "top-1 %"]
    assert heat_columns(build_table(table3(), measured({"S": [0.5]}))) == []


def test_claims_name_their_data_and_backbone() -> None:
    (column,) = claim_columns(build_table(table3(), []), "anything")
    assert column.kind == "claim"
    assert column.title == "claimed by the paper, CUB-200-2011, ResNet-50"
    assert column.cells[0] == "85.10"
    assert claim_columns(build_table(figure4(), []), "resnet50") == []
    three = claim_columns(build_table(table2(("ggam",)), []), "resnet50")
    assert [column.cells for column in three] == [("–", "88.45"), ("–", "93.42"), ("–", "94.41")]


def test_cells_of_costs(measured: Measured) -> None:
    assert cost_columns(build_table(ONE, [])) == []
    costs = {"baseline": Cost(10**6, 10**9, 0.1, 2**20), "a": Cost(15 * 10**5, 10**9, 0.2, 2**21)}
    columns = cost_columns(build_table(ONE, measured({"baseline": [0.5]}), costs=costs))
    assert [column.cells[1] for column in columns] == [
        "row A",
        f"1.50 (1.50{NBSP}×)",
        f"1.00 (1.00{NBSP}×)",
        f"200 (2.00{NBSP}×)",
        f"2 (2.00{NBSP}×)",
        "–",
    ]
    assert columns[-1].cells[0] == "6.0"
