"""What all commands print on: the console, progress bars, and Lightning kept quiet."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

CONSOLE = Console(highlight=False)
PROGRESS = Console(stderr=True)
Switch = Parameter(negative="")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; the block gets a function to call with what is done and what there is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=PROGRESS, transient=True, disable=not PROGRESS.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's advice and the warnings that do not concern our users."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*isinstance.treespec, LeafSpec.. is deprecated.*",
            ".*ended before the epoch ended and your dataloader is not resumable.*",
            ".*Checkpoint directory .* exists and is not empty.*",
            ".*`weights_only` was not set.*",
        ):
            warnings.filterwarnings("ignore", message)
        yield
