"""`ggam demo`."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ggam.demo import run_demo
from ggam.evaluation.measure import evaluator
from ggam.system.console import CONSOLE, progress
from ggam.training.signals import Interrupted


def demo(*, out: Path = Path("demo"), open_page: Annotated[bool, Parameter(name="--open")] = True) -> None:
    """Generate birds, train with and without attention, and compare the two on one page.

    Args:
        out: The folder to work in; made again if an earlier demo left it.
        open_page: Open the page in the browser at the end.
    """
    try:
        run_demo(out, CONSOLE, evaluator("auto", 2), progress, open_page=open_page)
    except Interrupted as stopped:
        print(f"ggam: stopped by {stopped}; ggam demo starts over", file=sys.stderr)
        sys.exit(128 + stopped.signum)
