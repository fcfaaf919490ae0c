"""torchvision beside a CPU-only torch, and beside a torch whose operators do load."""

import importlib
import subprocess
import sys

import pytest
import torch

from ggam.system import torchvision_hook


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_ggam_before_torchvision_is_enough() -> None:
    output = run(
        "import ggam, torchvision\n"
        "from torchvision.extension import _has_ops\n"
        "from ggam.system import torchvision_hook\n"
        "print(_has_ops(), len(torchvision_hook._libraries))"
    )
    assert output in ("True 0", "False 1")  # declared only where the real operators are missing


def test_torchvision_first_is_left_alone() -> None:
    """Where it can be imported without help, nothing is installed."""
    broken = (
        "import sys\n"
        "try:\n"
        "    import torchvision\n"
        "except RuntimeError:\n"
        "    raise SystemExit\n"
        "import ggam\n"
        "from ggam.system.torchvision_hook import _SchemaFinder\n"
        "assert not any(isinstance(f, _SchemaFinder) for f in sys.meta_path)\n"
    )
    run(broken)


def test_install_twice_is_install_once() -> None:
    before = list(sys.meta_path)
    torchvision_hook.install()
    assert sys.meta_path == before


@pytest.mark.parametrize("name", ["torchvision", "torchvision.ops", "somewhere._meta_registrations"])
def test_other_modules_are_none_of_its_business(name: str) -> None:
    libraries = len(torchvision_hook._libraries)
    assert torchvision_hook._SchemaFinder().find_spec(name, None) is None
    assert len(torchvision_hook._libraries) == libraries


def test_asked_again_it_does_not_declare_again() -> None:
    """A second declaration would abort the process."""
    importlib.import_module("torchvision")
    finder = torchvision_hook._SchemaFinder()
    assert finder.find_spec("torchvision._meta_registrations", None) is None
    assert torch.ops.torchvision.nms is not None
