"""The rows of the studies are those of the paper, and name their comparisons."""

import pytest

from ggam.methods.registry import METHODS
from ggam.studies.definition import ATTENTION, PLAIN, STUDIES, table2, table3
from ggam.studies.runner import combine


def test_table_3_has_the_eight_combinations() -> None:
    rows = {}
    for row in table3().rows:
        recipe = combine({}, row, 0)
        options = recipe.options
        plain = recipe.model.method == PLAIN
        rows[row.name] = (False,) * 3 if plain else (options.spatial, options.channel, options.guidance)
    assert rows == {
        "baseline": (False, False, False),
        "S": (True, False, False),
        "C": (False, True, False),
        "SC": (True, True, False),
        "G": (False, False, True),
        "SG": (True, False, True),
        "CG": (False, True, True),
        "SCG": (True, True, True),
    }


def test_figure_4_sweeps_the_weight_and_shares_its_ends() -> None:
    study = STUDIES["figure4"]()
    weights = {row.name: combine({}, row, 0).options for row in study.rows if row.name in study.axis}
    assert [study.axis[name] for name in weights] == [float(weight) for weight in range(10)]
    for name, options in weights.items():
        strength = options.guidance_weight if options.guidance else 0
        assert strength == study.axis[name]
    for mine, theirs in (("1", "SCG"), (ATTENTION, ATTENTION), (PLAIN, PLAIN)):
        assert combine({}, study.row(mine), 0) == combine({}, table3().row(theirs), 0)


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_row_is_named_once_and_compared_with_rows_that_exist(name: str) -> None:
    study = STUDIES[name]()
    names = [row.name for row in study.rows]
    assert len(set(names)) == len(names)
    for row in study.rows:
        assert row.name not in row.references
        assert set(row.references) <= set(names)
        combine({}, row, 3)
    assert set(study.axis) <= set(names)
    assert set(study.levels) <= set(names)


def test_table_2_holds_each_method_against_the_plain_network_on_its_backbone() -> None:
    study = table2(["ggam"], ["resnet50", "vgg19"])
    assert [(row.options["method"], row.options["backbone"], row.references) for row in study.rows] == [
        ("baseline", "resnet50", ()),
        ("ggam", "resnet50", ("baseline resnet50",)),
        ("baseline", "vgg19", ()),
        ("ggam", "vgg19", ("baseline vgg19",)),
    ]
    assert {row.options["method"] for row in table2().rows} == set(METHODS)


def test_the_guidance_study_says_what_it_compares_whatever_the_preset() -> None:
    paper = {"ggam": {"preset": "paper"}}
    targets = {row.name: combine(paper, row, 0).options.target for row in STUDIES["guidance"]().rows[2:]}
    assert targets["standardized"] == targets["label"] == "standardized"
    assert targets["sigmoid"] == "sigmoid"
    assert targets["uniform"] == "uniform"
