"""The recipes that we ship: each parses, and those named after the paper's data have its settings."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ggam import demo
from ggam.training.recipe import Recipe, flat_options

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
PAPER = [f"{data}_{backbone}" for data in ("cub", "aircraft", "cars") for backbone in ("resnet50", "vgg19")]


def values(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))


def test_all_recipes_are_there() -> None:
    assert {path.stem for path in RECIPES} >= {*PAPER, "birds", "flowers17"}


@pytest.mark.parametrize("name", [path.stem for path in RECIPES])
def test_it_parses_and_keeps_every_value(name: str) -> None:
    kept = flat_options(Recipe.from_dict(values(name)).to_dict())
    assert all(kept[key] == value for key, value in flat_options(values(name)).items())


@pytest.mark.parametrize("name", [path.stem for path in RECIPES])
def test_it_says_how_it_is_run(name: str) -> None:
    comments = [line for line in (FOLDER / f"{name}.yaml").read_text("utf-8").splitlines() if line[:1] == "#"]
    assert any(re.search(rf"ggam train \S+ --config recipes/{name}\.yaml .*--out", line) for line in comments)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_settings(name: str) -> None:
    recipe = Recipe.from_dict(values(name))
    data, backbone = name.split("_")
    assert (recipe.model.method, recipe.model.backbone, recipe.model.image_size) == ("ggam", backbone, 448)
    assert recipe.model.pretrained and recipe.model.stage is None
    assert recipe.data.layout == data
    assert (recipe.options.preset, recipe.options.guidance_weight) == ("paper", 1.0)
    assert (recipe.data.batch_size, recipe.data.val_fraction, recipe.data.train_per_class) == (32, 0.0, None)
    optimization = recipe.optimization
    assert (optimization.epochs, optimization.lr, optimization.backbone_lr) == (100, 0.1, 0.01)
    assert (optimization.momentum, optimization.weight_decay) == (0.9, 1e-4)
    # Written out, so that a change of our defaults does not change the paper's recipe.
    assert set(values(name)) >= {"epochs", "lr", "backbone_lr", "momentum", "weight_decay", "image_size"}


def test_the_birds_recipe_is_the_demos() -> None:
    assert values("birds") == demo.recipe()


def test_the_table_lists_each_recipe_once() -> None:
    rows = re.findall(r"^\| \[(\S+)\]\((\S+)\)", (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(rows) == [(path.name, path.name) for path in RECIPES]
