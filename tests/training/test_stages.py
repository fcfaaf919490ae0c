"""Stages: which epochs they are, and what rests in them."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from ggam import create_model
from ggam.methods.base import ParameterGroup, Stage
from ggam.training.recipe import OptimizationRecipe
from ggam.training.stages import Resting, planned_stages
from ggam.training.step import build_optimizer


def model() -> nn.Module:
    torch.manual_seed(0)
    return create_model("test_resnet", 3, pretrained=False, image_size=32)


def planned(stages: list[Stage], epochs: int) -> list[int]:
    network = model()
    network.stages = lambda: stages  # pyright: ignore
    return planned_stages(network, epochs)  # pyright: ignore[reportArgumentType]


def test_the_epochs_of_stages_by_hand() -> None:
    assert planned([Stage()], 3) == [0, 0, 0]
    assert planned([Stage(share=1), Stage(share=3)], 8) == [0, 0, 1, 1, 1, 1, 1, 1]
    assert planned([Stage(share=0.5), Stage(share=0.25), Stage(share=0.25)], 4) == [0, 0, 1, 2]
    assert planned([Stage()] * 3, 3) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"epochs=2: ggam trains in 3 stages.*raise --epochs"):
        planned([Stage()] * 3, 2)


@pytest.mark.parametrize("stages", [[], [Stage(), Stage(share=0)], [Stage(share=-1)]])
def test_stages_have_shares_above_zero(stages: list[Stage]) -> None:
    with pytest.raises(ValueError, match=r"the shares of the stages of ggam are .*: expected one at least"):
        planned(stages, 5)


@settings(max_examples=20)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=5), st.integers(60, 300))
def test_every_epoch_belongs_to_one_stage(shares: list[float], epochs: int) -> None:
    epochs = max(epochs, int(60 * sum(shares)))
    plan = planned([Stage(share=share) for share in shares], epochs)
    assert len(plan) == epochs and plan == sorted(plan)
    for number, share in enumerate(shares):
        assert abs(plan.count(number) - epochs * share / sum(shares)) <= 1


def test_only_what_a_stage_names_learns() -> None:
    network = model()
    network.get_submodule("attention").requires_grad_(False)  # never learns, whatever a stage says
    resting = Resting(network)  # pyright: ignore[reportArgumentType]
    stage = Stage(learns=("classifier", "backbone.body.model.layer4"), frozen_statistics=("classifier.0",))
    resting.enter(stage)
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {
        name
        for name, _ in network.named_parameters()
        if name.startswith(("classifier.", "backbone.body.model.layer4."))
    }
    resting.train(stage)
    modes = {path: module.training for path, module in network.named_modules()}
    assert modes[""] and modes["backbone"] and modes["backbone.body.model.layer4.0.bn1"]
    assert not modes["backbone.body.model.bn1"] and not modes["attention"] and not modes["classifier.0"]
    assert modes["classifier.2"]
    resting.enter(Stage())
    assert {name for name, p in network.named_parameters() if not p.requires_grad} == {
        f"attention.{name}" for name, _ in network.get_submodule("attention").named_parameters()
    }


@pytest.mark.parametrize("stage", [Stage(learns=("clasifier",)), Stage(frozen_statistics=("norm",))])
def test_a_stage_names_modules_that_there_are(stage: Stage) -> None:
    with pytest.raises(ValueError, match=r"a stage of ggam names '(clasifier|norm)', which is no module"):
        planned([Stage(), stage], 4)


def test_frozen_statistics_of_a_module_that_is_named_itself() -> None:
    network = model()
    stage = Stage(learns=("classifier.0", "classifier.2"), frozen_statistics=("classifier.0",))
    resting = Resting(network)  # pyright: ignore[reportArgumentType]
    resting.enter(stage)
    resting.train(stage)
    modes = {path: module.training for path, module in network.named_modules()}
    assert modes["classifier"] and modes["classifier.2"] and not modes["classifier.0"]
    assert network.get_parameter("classifier.0.weight").requires_grad


def test_groups_hold_every_parameter_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = model()
    everything = list(network.parameters())
    for groups, named in (
        ([ParameterGroup("", everything[1:])], next(name for name, _ in network.named_parameters())),
        ([ParameterGroup("", everything), ParameterGroup("x", everything[-1:])], "classifier.4.bias"),
        ([ParameterGroup("", [*everything, nn.Parameter(torch.zeros(1))])], "a parameter of another model"),
    ):
        monkeypatch.setattr(type(network), "parameter_groups", lambda self, groups=groups: groups)
        with pytest.raises(ValueError, match=f"GGAM.parameter_groups: {named} is not in exactly one group"):
            build_optimizer(network, OptimizationRecipe(), 1)  # pyright: ignore[reportArgumentType]


def test_groups_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    network = model()
    first, *rest = network.parameters()
    groups = [ParameterGroup("", rest), ParameterGroup("", [first])]
    monkeypatch.setattr(type(network), "parameter_groups", lambda self: groups)
    with pytest.raises(ValueError, match="two groups have one name"):
        build_optimizer(network, OptimizationRecipe(), 1)  # pyright: ignore[reportArgumentType]


def test_rates_and_weight_decay_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    network = model()
    first, *rest = network.parameters()
    groups = [
        ParameterGroup("", rest),
        ParameterGroup("gate", [first], pretrained=True, factor=10, decay=False),
    ]
    monkeypatch.setattr(type(network), "parameter_groups", lambda self: groups)
    recipe = OptimizationRecipe(lr=0.2, backbone_lr=0.03, weight_decay=0.5)
    optimizer, _ = build_optimizer(network, recipe, 1)  # pyright: ignore[reportArgumentType]
    found = [(g["name"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    assert found == [("lr", 0.2, 0.5), ("gate_lr", pytest.approx(0.3), 0.0)]
