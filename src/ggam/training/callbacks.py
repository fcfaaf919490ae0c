"""What happens around the steps of a run: its log, its checkpoints, and its end before time."""

import csv
import io
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ggam.data.loaders import FineGrainedDataModule
from ggam.system.files import replacing, write_atomic

LAST = "last.ckpt"
BEST = "best.ckpt"
COLUMNS: Sequence[str] = (
    "epoch",
    "train_loss",
    "train_classification",
    "train_guidance",
    "train_accuracy",
    "channel_entropy",
    "target_entropy",
    "val_loss",
    "val_accuracy",
    "lr",
    "backbone_lr",
    "seconds",
)
_SOURCES = {"channel_entropy": "train/channel_entropy", "target_entropy": "train/target_entropy"}
_LINE = {
    "train/loss": "loss",
    "train/classification": "cross-entropy",
    "train/guidance": "guidance",
    "train/accuracy": "accuracy",
    "val/accuracy": "validation",
    "train/channel_entropy": "H(S)",
    "train/target_entropy": "H(target)",
}


class Interrupted(Exception):
    """A signal asked the run to stop; everything up to the step that was running is saved.

    Attributes:
        signum: the signal's number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Position(Callback):
    """Keeps the data module and the model told of where the run stands."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shuffle for this epoch."""
        data = _data(trainer)
        assert data.batches is not None
        data.batches.epoch = trainer.current_epoch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        _data(trainer).trained = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx + 1


class EpochLog(Callback):
    """One row per epoch in `metrics.csv`; a resumed run goes on behind the rows it has.

    The learning rates are those that the epoch ended at.
    Of an epoch that was interrupted, the means over its training steps hold those after the last start;
    its seconds are all that it took.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """How long the epoch has taken so far, in seconds."""
        return {"elapsed": time.monotonic() - self.started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the clock go on; the start of another epoch resets it."""
        self.started = time.monotonic() - state_dict["elapsed"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch's row."""
        # On all ranks: reading the metrics is what averages them over the ranks.
        measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not trainer.is_global_zero:
            return
        rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch + 1,
            "lr": rates[0],
            "backbone_lr": rates[1],
            "seconds": round(time.monotonic() - self.started, 3),
        }
        for column in COLUMNS:
            source = _SOURCES.get(column, column.replace("_", "/", 1))
            if source in measured:
                row[column] = measured[source]
        rows = [old for old in read_epochs(self.path) if int(old["epoch"]) <= trainer.current_epoch]
        write_epochs(self.path, [*rows, row])


class EpochLines(Callback):
    """One printed line per epoch, where a progress bar cannot be drawn."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's line."""
        measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not trainer.is_global_zero:
            return
        text = ", ".join(f"{short} {measured[name]:.4f}" for name, short in _LINE.items() if name in measured)
        print(f"epoch {trainer.current_epoch + 1}/{self.epochs}: {text}", flush=True)


class Checkpoints(Callback):
    """`last.ckpt` after each epoch, and `best.ckpt` where the validation accuracy rose.

    The best is written first: a kill between the two has the epoch repeated, with the same outcome.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best_accuracy = -1.0
        self.best_epoch = 0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know of the best epoch so far."""
        return {"best_accuracy": self.best_accuracy, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best epoch so far from a checkpoint."""
        self.best_accuracy = state_dict["best_accuracy"]
        self.best_epoch = state_dict["best_epoch"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the epoch."""
        accuracy = trainer.callback_metrics.get("val/accuracy")
        if accuracy is not None and float(accuracy) > self.best_accuracy:
            self.best_accuracy, self.best_epoch = float(accuracy), trainer.current_epoch + 1
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)
        trainer.save_checkpoint(self.folder / LAST)


class EpochBar(RichProgressBar):
    """Lightning's bar for each epoch, counted from 1."""

    def __init__(self) -> None:
        super().__init__(leave=True)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands beside the bar; not the logger's version, which is no news."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}".ljust(len(self.validation_description))


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that a kill or a power cut at any time leaves whole, the old one or the new one.

    Lightning's own are written into the system's temporary folder and moved, which on another file
    system means that they are copied onto the old one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside the old file, to the disk itself, then rename."""
        with replacing(Path(path)) as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


class StopOnSignal(Callback):
    """SIGINT and SIGTERM end the run after the step they interrupt, with everything saved.

    A step ends with the last of its accumulated batches. A signal within the last step of an epoch lets
    the epoch finish, its validation included.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.received = 0
        self.previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, from now on; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in (signal.SIGINT, signal.SIGTERM):
            self.previous[signum] = signal.signal(signum, self._remember)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no longer."""
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
        self.previous.clear()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and leave if a signal came on any rank."""
        done = batch_idx + 1
        stepped = done % trainer.accumulate_grad_batches == 0  # gradients are not in a checkpoint
        if stepped and done < trainer.num_training_batches and self._asked(trainer):
            trainer.save_checkpoint(self.folder / LAST)
            raise Interrupted(self.received or signal.SIGTERM)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave after the epoch's checkpoint (this callback comes last) if a signal came."""
        if self._asked(trainer) and trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            raise Interrupted(self.received or signal.SIGTERM)

    def _asked(self, trainer: Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(bool(self.received), all=False)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum


def _data(trainer: Trainer) -> FineGrainedDataModule:
    data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(data, FineGrainedDataModule)
    return data


def read_epochs(path: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`, none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_epochs(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a `metrics.csv` at once."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
