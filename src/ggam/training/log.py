"""What is told of a training: rows in `metrics.csv`, TensorBoard events, and lines and a bar for people."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ggam.runs.run import Run


class Means:
    """The means over an epoch's steps of what the steps measure; what only some measure, over those."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in a step."""
        for name, value in values.items():
            total, count = self._sums.get(name, (torch.zeros_like(value), 0))
            self._sums[name] = total + value, count + 1

    def read(self) -> dict[str, float]:
        """The means so far."""
        return {name: float(total) / count for name, (total, count) in self._sums.items()}

    def state_dict(self) -> dict[str, tuple[Tensor, int]]:
        """For a checkpoint within an epoch."""
        return {name: (total.cpu(), count) for name, (total, count) in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, tuple[Tensor, int]], device: torch.device) -> None:
        """Go on from a checkpoint."""
        self._sums = {name: (total.to(device), count) for name, (total, count) in state.items()}


class EpochLog:
    """Writes and prints the epochs of a run; a resumed run goes on behind the rows it has.

    Args:
        run: where `metrics.csv` and the TensorBoard events go.
        epochs: how many there will be.
        quiet: write and tell nothing, on all ranks but the first.
    """

    def __init__(self, run: Run, epochs: int, *, quiet: bool = False) -> None:
        self._run = run
        self._epochs = epochs
        self._console = Console(quiet=quiet)
        self._writer = None if quiet else SummaryWriter(str(run.folder / "tensorboard"))
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds that the epoch has taken so far, before an interruption too."""
        return time.monotonic() - self._started

    def start_epoch(self, elapsed: float = 0.0) -> None:
        """Start the clock, or let it go on."""
        self._started = time.monotonic() - elapsed

    def end_epoch(
        self,
        epoch: int,
        means: Mapping[str, float],
        validation: Mapping[str, float],
        rates: Mapping[str, float],
    ) -> None:
        """Write the epoch's row and events, and print its line.

        Args:
            epoch: from 1.
            means: the loss, its terms and diagnostics over the training steps.
            validation: what was measured on the validation part.
            rates: the learning rates that the epoch ended at.
        """
        if self._writer is None:
            return
        values = {**means, **validation, **rates}
        row = {"epoch": epoch, **values, "seconds": round(self.elapsed, 3)}
        before = [old for old in self._run.read_epochs() if int(old["epoch"]) < epoch]
        self._run.write_epochs([*before, row])
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()
        told = ", ".join(f"{name} {value:.4f}" for name, value in {**means, **validation}.items())
        self._console.print(f"epoch {epoch}/{self._epochs}: {told}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    @contextmanager
    def bar(self, epoch: int, steps: int, done: int) -> Iterator[Callable[[int, float], None]]:
        """A bar of an epoch's steps, on a terminal or in a notebook; the block calls it with those done."""
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
        )
        shown = self._console.is_terminal or self._console.is_jupyter
        with Progress(*columns, console=self._console, transient=True, disable=not shown) as progress:
            of = f"{epoch}/{self._epochs}"
            task = progress.add_task("", total=steps, completed=done, epoch=of, loss=0.0)
            yield lambda count, loss: progress.update(task, completed=count, loss=loss)
