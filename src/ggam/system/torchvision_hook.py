"""Lets torchvision be imported beside a CPU-only torch.

PyPI's torchvision is a CUDA build. Beside a CPU build of torch its compiled operators cannot load,
and `import torchvision` dies with «operator torchvision::nms does not exist», and timm and
torchmetrics with it. `install` puts a finder in front of the import system that declares the two
missing schemas at the one moment they are needed, and only where the real operators did not load:
declared beside the real ones, they would abort the process.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

_NEEDS_SCHEMAS = "torchvision._meta_registrations"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[object] = []  # torch drops the schemas when the library object is collected


class _SchemaFinder(importlib.abc.MetaPathFinder):
    """Finds nothing itself; declares the schemas on the way to the module that needs them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == _NEEDS_SCHEMAS and not _libraries:
            _declare_missing_schemas()
        return None


def _declare_missing_schemas() -> None:
    import torch
    from torchvision.extension import _has_ops

    if not _has_ops():
        library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            library.define(schema)
        _libraries.append(library)


def install() -> None:
    """Install the finder, once, unless torchvision has been imported already."""
    installed = any(isinstance(finder, _SchemaFinder) for finder in sys.meta_path)
    if not installed and _NEEDS_SCHEMAS not in sys.modules:
        sys.meta_path.insert(0, _SchemaFinder())
