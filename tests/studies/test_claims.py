"""The paper's figures, and the rows they are shown beside."""

import pytest

from ggam.studies.claims import CLAIMS, claims_for
from ggam.studies.definition import Row, figure4, table2, table3


def test_every_row_of_table_3_has_its_claim() -> None:
    claimed = {
        row.name: [(claim.data, claim.backbone, claim.accuracy) for claim in claims_for("table3", row, "any")]
        for row in table3().rows
    }
    assert claimed["baseline"] == [("cub", "resnet50", 0.851)]
    assert claimed["SCG"] == [("cub", "resnet50", 0.8845)]
    assert all(len(found) == 1 for found in claimed.values())


def test_the_ends_of_both_tables_agree() -> None:
    (ours,) = [c for c in CLAIMS["table2"] if (c.system, c.backbone, c.data) == ("GGAM", "resnet50", "cub")]
    assert ours.accuracy == next(c.accuracy for c in CLAIMS["table3"] if c.row == "SCG")


def test_table_2_is_matched_by_method_and_backbone() -> None:
    rows = {row.name: row for row in table2(("ggam",), ("torchvision/vgg19", "resnet18")).rows}
    found = claims_for("table2", rows["ggam torchvision/vgg19"], "resnet50")
    assert [claim.accuracy for claim in found] == [0.8734, 0.9155, 0.9332]
    assert claims_for("table2", rows["ggam resnet18"], "resnet50") == ()
    assert claims_for("table2", rows["baseline torchvision/vgg19"], "resnet50") == ()


@pytest.mark.parametrize("backbone", ["resnet50", "resnet50.a1_in1k", "torchvision/resnet50"])
def test_a_row_without_a_backbone_has_the_recipes(backbone: str) -> None:
    row = Row("ggam", "GGAM", {"method": "ggam"})
    assert [claim.accuracy for claim in claims_for("table2", row, backbone)] == [0.8845, 0.9342, 0.9441]


def test_figure_4_claims_no_number() -> None:
    assert all(claims_for("figure4", row, "resnet50") == () for row in figure4().rows)
