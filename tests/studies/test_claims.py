"""The paper's figures, and the rows they are shown beside."""

import pytest

from ggam.studies.claims import CLAIMS, DATA_TITLES, claim_for
from ggam.studies.definition import Row, figure4, table2, table3


def test_every_row_of_table_3_has_its_claim() -> None:
    claimed = {row.name: claim_for("table3", row, "any") for row in table3().rows}
    assert {claim.backbone for claim in claimed.values() if claim} == {"resnet50"}
    accuracies = {name: claim.accuracies for name, claim in claimed.items() if claim}
    assert len(accuracies) == 8
    assert (accuracies["baseline"], accuracies["SCG"]) == ({"cub": 0.851}, {"cub": 0.8845})


def test_the_ends_of_both_tables_agree() -> None:
    (ours,) = [c for c in CLAIMS["table2"] if (c.system, c.backbone) == ("GGAM", "resnet50")]
    whole = next(c for c in CLAIMS["table3"] if c.row == "SCG")
    assert ours.accuracies["cub"] == whole.accuracies["cub"]
    assert all(list(c.accuracies) == list(DATA_TITLES) for c in CLAIMS["table2"])


def test_table_2_is_matched_by_method_and_backbone() -> None:
    rows = {row.name: row for row in table2(("ggam",), ("torchvision/vgg19", "resnet18")).rows}
    found = claim_for("table2", rows["ggam torchvision/vgg19"], "resnet50")
    assert found is not None
    assert list(found.accuracies.values()) == [0.8734, 0.9155, 0.9332]
    assert claim_for("table2", rows["ggam resnet18"], "resnet50") is None
    assert claim_for("table2", rows["baseline torchvision/vgg19"], "resnet50") is None


@pytest.mark.parametrize("backbone", ["resnet50", "resnet50.a1_in1k", "torchvision/resnet50"])
def test_a_row_without_a_backbone_has_the_recipes(backbone: str) -> None:
    found = claim_for("table2", Row("ggam", "GGAM", {"method": "ggam"}), backbone)
    assert found is not None
    assert list(found.accuracies.values()) == [0.8845, 0.9342, 0.9441]


def test_figure_4_claims_no_number() -> None:
    assert all(claim_for("figure4", row, "resnet50") is None for row in figure4().rows)
