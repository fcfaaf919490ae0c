from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

import ggam
from ggam.methods.ggam import GGAMOptions
from ggam.methods.registry import METHODS
from ggam.system.devices import resolve_precision
from ggam.training.recipe import (
    DataRecipe,
    MachineRecipe,
    ModelRecipe,
    OptimizationRecipe,
    Recipe,
    flat_options,
    for_method,
)
from ggam.training.step import build_optimizer


def test_the_defaults_are_the_papers() -> None:
    recipe = Recipe()
    assert recipe.model.image_size == 448
    assert recipe.data.batch_size == 32
    optimization = recipe.optimization
    assert (optimization.epochs, optimization.lr, optimization.backbone_lr) == (100, 0.1, 0.01)
    assert (optimization.momentum, optimization.weight_decay) == (0.9, 1e-4)


def test_a_recipe_comes_back_as_it_was() -> None:
    recipe = Recipe(
        model=ModelRecipe(backbone="resnet18", weights=Path("w.safetensors"), stage=-2),
        options=GGAMOptions(preset="paper", target="softmax", guidance_weight=3.0),
        data=DataRecipe(train_per_class=5, val_fraction=0.2),
        optimization=OptimizationRecipe(lr=0.02, clip=1.0),
        machine=MachineRecipe(seed=4),
    )
    stored = yaml.safe_load(yaml.safe_dump(recipe.to_dict()))
    assert Recipe.from_dict(stored) == recipe
    assert flat_options(stored)["ggam.target"] == "softmax"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone_lrr": 1}, "did you mean backbone_lr?"),
        ({"lr": -1.0}, "lr=-1.0: expected 0 or more"),
        ({"method": "gam"}, "method 'gam'"),
        ({"target": "softmax"}, "recipe has no option 'target': options of a method stand below its name"),
        ({"placement": "last"}, "did you mean senet: {placement: …}?"),
        ({"method": "cbam", "ggam": {"warmup": 2}}, "ggam: options of the method ggam, but the recipe's"),
        ({"senet": {"placement": "last"}}, "senet: options of the method senet"),
        ({"method": "senet", "senet": {"placement": "first"}}, "placement='first': expected one of blocks"),
        ({"ggam": {"warm_up": 2}}, "method 'ggam' has no option 'warm_up': did you mean warmup?"),
        ({"ggam": 3}, "ggam=3: expected a mapping"),
        ({"method": "baseline", "baseline": {"x": 1}}, "no option 'x': it has none"),
        ({"batch_size": 9, "devices": 2}, "batch_size=9: expected a multiple of the 2 devices"),
        ({"val_fraction": 1.0}, "val_fraction=1.0"),
        ({"ggam": {"target": "softmx"}}, "target='softmx'"),
        ({"epochs": 0}, "epochs=0"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"seed": -1}, "seed=-1"),
        ({"image_size": 8}, "image_size=8"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as refusal:
        Recipe.from_dict(values)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("baseline", {}),
        ("senet", {"placement": "last"}),
        ("cbam", {"placement": "blocks"}),
        ("ggam", {"reduction": 8, "target": "uniform"}),
    ],
)
def test_a_method_is_given_its_own_options_alone(method: str, options: dict[str, object]) -> None:
    everything = {"method": method, "lr": 0.3, **{name: {} for name in METHODS}, method: options}
    recipe = Recipe.from_dict(for_method(everything, method))
    assert vars(recipe.options).keys() == {option.name for option in fields(METHODS[method].Options)}
    assert vars(recipe.options).items() >= options.items()
    assert recipe.optimization.lr == 0.3


def test_options_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="expected those of the method 'senet'"):
        Recipe(model=ModelRecipe(method="senet"), options=GGAMOptions())


def test_the_optimizer_has_two_rates_annealed_to_zero() -> None:
    model = ggam.create_model("test_resnet", num_classes=3, pretrained=False, image_size=32)
    recipe = OptimizationRecipe(lr=0.2, backbone_lr=0.02)
    optimizer, schedule = build_optimizer(model, recipe, total_steps=10)

    groups = optimizer.param_groups
    assert [group["lr"] for group in groups] == [0.2, 0.02]
    counts = [sum(p.numel() for p in group["params"]) for group in groups]
    assert counts[1] == sum(p.numel() for p in model.backbone.parameters())
    assert sum(counts) == sum(p.numel() for p in model.parameters())
    for _ in range(10):
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in groups] == pytest.approx([0.0, 0.0], abs=1e-12)


def test_a_given_precision_is_kept() -> None:
    assert resolve_precision("fp32", torch.device("cpu")) == "fp32"
    assert resolve_precision("bf16", torch.device("cpu")) == "bf16"
    assert resolve_precision("auto", torch.device("mps")) == "fp32"
