"""Lightning's trainer as a run needs it, and the devices it may use."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from ggam.data.loaders import FineGrainedDataModule, without_traceback
from ggam.data.records import DataError
from ggam.system.devices import DeviceError, default_device
from ggam.training.callbacks import (
    Checkpoints,
    EpochBar,
    EpochLines,
    EpochLog,
    Interrupted,
    Position,
    StopOnSignal,
    WholeCheckpoints,
)
from ggam.training.module import TrainingDiverged, TrainingModule
from ggam.training.recipe import Recipe, resolve_precision

METRICS = "metrics.csv"
CHECKPOINTS = "checkpoints"


def build_trainer(recipe: Recipe, run: Path, *, validate: bool = True) -> Trainer:
    """Lightning's trainer with our log, checkpoints and way to stop.

    Args:
        recipe: how long, and on what.
        run: the run directory; nothing is written before training starts.
        validate: measure each epoch on the validation part.

    Raises:
        DeviceError: if the machine has not got the devices.
    """
    machine = recipe.machine
    device = default_device(machine.accelerator)
    require_devices(device, machine.devices)
    parallel = machine.devices * machine.nodes > 1
    checkpoints = run / CHECKPOINTS
    callbacks: list[Any] = [
        Position(),
        EpochLog(run / METRICS),
        Checkpoints(checkpoints),
        StopOnSignal(checkpoints),
    ]
    terminal = Console().is_terminal
    callbacks.append(EpochBar() if terminal else EpochLines(recipe.optimization.epochs))
    torch.backends.cudnn.deterministic = True
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=machine.devices,
        num_nodes=machine.nodes,
        strategy="ddp" if parallel else "auto",
        sync_batchnorm=parallel and device.type == "cuda",
        precision="bf16-mixed" if resolve_precision(machine.precision, device) == "bf16" else "32-true",
        max_epochs=recipe.optimization.epochs,
        accumulate_grad_batches=recipe.optimization.accumulate,
        gradient_clip_val=recipe.optimization.clip,
        logger=TensorBoardLogger(run, name="", version="tensorboard"),
        plugins=[WholeCheckpoints()],
        callbacks=callbacks,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if validate else 0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=terminal,
        use_distributed_sampler=False,
        default_root_dir=run,
    )


def require_devices(device: torch.device, count: int) -> None:
    """Refuse more devices than there are; processes on the CPU can be any number.

    Raises:
        DeviceError: saying how many there are.
    """
    there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type, count)
    if count > there:
        raise DeviceError(f"--devices {count}: this machine has {there} of {device.type}")


def run_trainer(
    trainer: Trainer, module: TrainingModule, data: FineGrainedDataModule, checkpoint: Path | None
) -> None:
    """Lightning's loop, its errors in one line each.

    Raises:
        DeviceError: if the device's memory does not suffice.
        DataError: if a picture cannot be read.
        Interrupted: if a signal stopped the run, on the first rank only.
        TrainingDiverged: if the loss stopped being a number, on the first rank only.
    """
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=checkpoint is not None)
    except (Interrupted, TrainingDiverged):  # on all ranks together; the first one says so
        if trainer.is_global_zero:
            raise
    except DataError as error:
        raise without_traceback(error) from error
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"the device's memory does not suffice for {data.batch_size} pictures at a time: lower "
            "--batch-size, and raise --accumulate to take as many for a step"
        ) from error
