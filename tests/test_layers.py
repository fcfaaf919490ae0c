"""Imports run downward only: the layers of the architecture, read from the source files."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "ggam"

# From the bottom up. A name is a module or a package right below `ggam`; a new one is added here.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("_version", "equations", "system"),
    ("backbones", "data", "drawing"),
    ("methods",),
    ("explanations", "runs"),
    ("evaluation", "training"),
    ("report",),
    ("deploy", "studies"),
    ("__main__", "cli", "commands", "demo", "fitting"),
)
# Training receives an `evaluate` callable; pictures and charts know no network.
STRANGERS = (
    {"evaluation", "training"},
    {"drawing", "equations"},
    {"drawing", "backbones"},
    {"drawing", "data"},
)
TORCH_ONLY = ("attention", "gradcam", "guidance", "precision")
"""Of `equations`; the mathematics stays readable file by file, so that they do not import one another."""

UNITS = sorted(
    path.stem
    for path in PACKAGE.iterdir()
    if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file()
)
RANK = {unit: rank for rank, layer in enumerate(LAYERS) for unit in layer}


def sources(unit: str) -> list[Path]:
    folder = PACKAGE / unit
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imported_modules(source: str) -> Iterator[str]:
    """The full names of all modules that a source imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import, line {node.lineno}: name the module in full"
            if node.module == "ggam":
                yield from (f"ggam.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def imported_units(source: str) -> set[str]:
    """What a source imports from this package, one name below `ggam`."""
    names = {name.split(".")[1] for name in imported_modules(source) if name.startswith("ggam.")}
    return {"_version" if name == "__version__" else name for name in names}


def complaint(unit: str, imported: str) -> str | None:
    if imported == unit:
        return None
    if imported not in RANK:
        return f"{unit} imports ggam.{imported}: no module; import public names from where they live"
    if RANK[imported] > RANK[unit]:
        return f"{unit} imports {imported} from a layer above it"
    if any({unit, imported} <= strangers for strangers in STRANGERS):
        return f"{unit} and {imported} must not know one another"
    return None


def test_every_module_has_a_layer() -> None:
    unknown = [unit for unit in UNITS if unit not in RANK]
    assert not unknown, (
        f"{', '.join(unknown)}: add to LAYERS in {Path(__file__).name}, as low as its imports let it"
    )


@pytest.mark.parametrize("unit", UNITS)
def test_imports_run_downward(unit: str) -> None:
    complaints = [
        f"{file.relative_to(PACKAGE)}: {found}"
        for file in sources(unit)
        for imported in sorted(imported_units(file.read_text("utf-8")))
        if (found := complaint(unit, imported))
    ]
    assert not complaints, "\n".join(complaints)


def test_modules_of_one_layer_do_not_go_in_circles() -> None:
    graph = {
        unit: {name for file in sources(unit) for name in imported_units(file.read_text("utf-8"))} - {unit}
        for unit in UNITS
    }
    assert set(TopologicalSorter(graph).static_order()) >= set(UNITS)


@pytest.mark.parametrize("equation", TORCH_ONLY)
def test_the_mathematics_needs_torch_alone(equation: str) -> None:
    assert {path.stem for path in sources("equations")} == {*TORCH_ONLY, "__init__"}
    names = set(imported_modules((PACKAGE / "equations" / f"{equation}.py").read_text("utf-8")))
    own = {name for name in names if name.startswith("ggam.")}
    assert own <= {"ggam.equations.precision"}
    assert {name.split(".")[0] for name in names - own} - {"torch"} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("unit", "source", "message"),
    [
        ("drawing", "from ggam.data.records import Box", "must not know one another"),
        ("training", "def f():\n    import ggam.evaluation.evaluate", "must not know one another"),
        ("methods", "from ggam.explanations.explanation import explain", "from a layer above it"),
        ("methods", "from ggam import runs", "from a layer above it"),
        ("report", "from ggam import explain", "no module"),
    ],
)
def test_a_wrong_import_would_be_found(unit: str, source: str, message: str) -> None:
    (imported,) = imported_units(source)
    assert message in str(complaint(unit, imported))


def test_right_imports_pass() -> None:
    source = "import os\nfrom ggam import __version__\nfrom ggam.methods.base import Output"
    assert imported_units(source) == {"_version", "methods"}
    assert [complaint("training", name) for name in ("_version", "methods", "training")] == [None] * 3
