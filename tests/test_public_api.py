"""The names, signatures and import cost that users rely on."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ggam

NAMES = {
    "Attention",
    "ChannelSpatialAttention",
    "Explanation",
    "FineGrainedModel",
    "GGAMLoss",
    "Interrupted",
    "LossTerms",
    "Output",
    "TrainedRun",
    "__version__",
    "apply_spatial",
    "channel_weights",
    "create_model",
    "explain",
    "explain_maps",
    "explain_module",
    "fit",
    "from_pretrained",
    "gradcam_map",
    "gradcam_weights",
    "load_dataset",
    "load_model",
    "save_model",
    "spatial_weights",
    "symmetric_kl",
}

# As the documentation writes them: name=default, everything behind * by keyword only.
SIGNATURES = {
    "channel_weights": "features, reduce, expand, *, descriptor_norm=False",
    "spatial_weights": "weighted, *, norm='ratio'",
    "apply_spatial": "features, spatial",
    "ChannelSpatialAttention": "channels, *, reduction=16, channel=True, spatial=True, spatial_norm='ratio', "
    "descriptor_norm=False",
    "gradcam_weights": "logits, features, classes=None",
    "gradcam_map": "features, weights",
    "symmetric_kl": "p, q",
    "GGAMLoss": "weight=1.0, *, target='standardized', divergence='symmetric'",
    "create_model": "backbone, num_classes=None, *, method='ggam', pretrained=True, weights=None, "
    "stage=None, image_size=448, class_names=None, **options",
    "save_model": "model, directory",
    "load_model": "source, *, backbone=None",
    "from_pretrained": "source, *, revision=None, backbone=None",
    "explain": "model, images, classes=None",
    "explain_maps": "model, images, classes=None, *, kinds=None",
    "explain_module": "model, layer, images, classes=None, *, layout=None",
    "fit": "data, *, out, resume=False, **recipe",
    "load_dataset": "path, *, split, layout=None, seed=0",
}

FIELDS = {
    "Attention": ("channel", "spatial", "attended"),
    "Output": ("logits", "features", "attended", "maps"),
    "LossTerms": ("total", "classification", "guidance"),
    "Explanation": ("logits", "classes", "maps", "weights", "features", "attended", "shown"),
}


def bare_signature(function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()
    ]
    bare = signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    return str(bare).strip("()")


def test_the_public_names() -> None:
    assert set(ggam.__all__) == set(dir(ggam)) == NAMES
    for name in NAMES:
        assert getattr(ggam, name) is not None


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(inspect.getfile(ggam)).read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    homes = {
        str(alias.asname): str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes.keys() | {"__version__"} == NAMES
    for name, home in homes.items():
        assert getattr(ggam, name) is getattr(sys.modules[home], name)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    assert bare_signature(getattr(ggam, name)) == SIGNATURES[name]


@pytest.mark.parametrize("name", FIELDS)
def test_results_are_named_tuples(name: str) -> None:
    kind: Any = getattr(ggam, name)
    assert tuple in kind.__mro__ and kind._fields == FIELDS[name]


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_every_public_thing_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(ggam, name))


@pytest.mark.parametrize(
    ("name", "equation"),
    [
        ("channel_weights", "Eq. (1)"),
        ("apply_spatial", "Eq. (2)"),
        ("spatial_weights", "Eq. (3)"),
        ("gradcam_weights", "Eq. (4)"),
        ("symmetric_kl", "Eq. (5)"),
        ("GGAMLoss", "Eq. (6)"),
    ],
)
def test_each_equation_is_found_by_its_number(name: str, equation: str) -> None:
    assert str(inspect.getdoc(getattr(ggam, name))).startswith(equation)


def test_the_page_of_equations_names_what_exists() -> None:
    root = Path(__file__).parents[1]
    page = (root / "docs/equations.md").read_text("utf-8")
    for dotted in set(re.findall(r"`(ggam\.[\w.]+)`", page)):
        home, _, name = dotted.rpartition(".")
        assert hasattr(importlib.import_module(home), name), dotted
    cited = re.findall(r"`((?:\w+/)?test_\w+\.py)(?:::(\w+))?`((?:, `test_\w+`)*)", page)
    assert len(cited) > 10
    for file, first, others in cited:
        source = (root / "tests" / file).read_text("utf-8")
        for test in filter(None, [first, *re.findall(r"test_\w+", others)]):
            assert f"def {test}(" in source, f"{file}::{test}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ggam' has no attribute 'explode'"):
        _ = ggam.explode


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, ggam; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "torchvision", "timm", "lightning", "numpy", "PIL"} & set(done.stdout.split())
