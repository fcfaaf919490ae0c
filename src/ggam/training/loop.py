"""The training loop: epochs of steps, validation, checkpoints, and a way to stop and to go on."""

import logging
import math
import os
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.strategies.single_device import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ggam.backbones.build import eval_mode
from ggam.data.loaders import EpochBatches, eval_loader, training_loader
from ggam.data.records import FineGrainedDataset
from ggam.methods.base import FineGrainedModel, Stage
from ggam.runs.run import Run, RunError
from ggam.system.devices import DeviceError, default_device, resolve_precision
from ggam.system.files import replacing
from ggam.training.log import EpochLog, Means
from ggam.training.recipe import Recipe
from ggam.training.signals import Interrupted, StopRequest, listening
from ggam.training.stages import Resting, planned_stages
from ggam.training.step import Batch, Losses, Trained, TrainingDiverged, build_optimizer, training_step

FORMAT = 1
for _name in ("lightning.fabric", "lightning.pytorch"):  # under either, Fabric says what it was told
    logging.getLogger(_name).setLevel(logging.WARNING)


def build_fabric(recipe: Recipe) -> Fabric:
    """The device and the ranks of a run.

    Raises:
        DeviceError: if the machine has not got the devices.
    """
    machine = recipe.machine
    device = default_device(machine.accelerator)
    require_devices(device, machine.devices)
    torch.backends.cudnn.deterministic = True
    if machine.devices * machine.nodes == 1:
        # One process is the first rank, whatever a scheduler's variables say of its neighbours.
        one = torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
        return Fabric(strategy=SingleDeviceStrategy(one), plugins=[LightningEnvironment()])
    return Fabric(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=machine.devices,
        num_nodes=machine.nodes,
        # Which parameters a step reaches differs between methods, options and stages.
        strategy=DDPStrategy(find_unused_parameters=True),
    )


def require_devices(device: torch.device, count: int) -> None:
    """Refuse more devices than there are; processes on the CPU can be any number.

    Raises:
        DeviceError: saying how many there are.
    """
    there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type, count)
    if count > there:
        raise DeviceError(f"--devices {count}: this machine has {there} of {device.type}")


class Loop:
    """A training from its first step, or from a checkpoint, to its last.

    Args:
        recipe: how.
        model: what is trained, with its weights to start from.
        train: with an augmenting transform.
        val: with an evaluation transform; may be empty.
        run: where checkpoints and the log go.
        fabric: launched.

    Attributes:
        best_epoch: the epoch of `best.ckpt`, from 1; 0 where there is none.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: FineGrainedModel,
        train: FineGrainedDataset,
        val: FineGrainedDataset,
        run: Run,
        fabric: Fabric,
    ) -> None:
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)  # in place
        self._recipe = recipe
        self._model: FineGrainedModel = model.to(fabric.device)
        self._train = train
        self._val = val
        self._run = run
        self._fabric = fabric
        self._batches = EpochBatches(
            len(train),
            recipe.data.batch_size,
            recipe.machine.seed,
            rank=fabric.global_rank,
            ranks=fabric.world_size,
        )
        self._bf16 = resolve_precision(recipe.machine.precision, fabric.device) == "bf16"
        self._accumulate = recipe.optimization.accumulate
        self._epochs = recipe.optimization.epochs
        self._stages = model.stages()
        self._plan = planned_stages(model, self._epochs)
        self._resting = Resting(model)
        steps = self._epochs * math.ceil(len(self._batches) / self._accumulate)
        self._optimizer, self._schedule = build_optimizer(model, recipe.optimization, steps)
        self._means = Means()
        self._trained = 0
        self._elapsed = 0.0
        self._best_accuracy = -1.0
        self.best_epoch = 0

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint instead of from the start."""
        state = read_checkpoint(checkpoint)
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._means.load_state_dict(state["means"], self._fabric.device)
        self._trained = state["trained"]
        self._elapsed = state["elapsed"]
        if self._run.best_checkpoint.exists():  # the file itself says what it holds
            best = read_checkpoint(self._run.best_checkpoint)
            self._best_accuracy, self.best_epoch = best["accuracy"], best["epoch"]

    def run(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: if a signal stopped it; everything is saved.
            TrainingDiverged: if the loss stops being a number.
            DataError: if a picture cannot be read.
        """
        first = self._trained // len(self._batches)
        if first >= self._epochs:
            return
        log = EpochLog(self._run, self._epochs, quiet=not self._fabric.is_global_zero)
        self._batches.go_on(self._trained)
        loader = training_loader(
            self._train, self._batches, self._recipe.machine.seed, workers=self._recipe.data.workers
        )
        entered, losses = None, None
        try:
            with listening() as request:
                for epoch in range(first, self._epochs):
                    stage = self._plan[epoch]
                    self._model.epoch, self._model.training_stage = epoch, stage
                    if losses is None or stage != entered:
                        losses, entered = self._enter(self._stages[stage]), stage
                    self._train_epoch(epoch, losses, loader, request, log)
                    self._end_epoch(epoch, log)
                    if epoch + 1 < self._epochs:
                        self._stop_if_asked(request)
        finally:
            log.close()

    def _enter(self, stage: Stage) -> nn.Module:
        """Have a stage's parameters learn; DDP is told anew which those are."""
        self._resting.enter(stage)
        return self._fabric.setup_module(Losses(self._model, bf16=self._bf16), move_to_device=False)

    def _train_epoch(
        self,
        epoch: int,
        losses: nn.Module,
        loader: DataLoader[tuple[Tensor, int]],
        request: StopRequest,
        log: EpochLog,
    ) -> None:
        """The steps of an epoch that are still to be made."""
        self._batches.epoch = epoch
        self._resting.train(self._stages[self._plan[epoch]])
        trained = Trained(
            self._model, losses, self._optimizer, self._schedule, self._recipe.optimization.clip
        )
        done = self._trained % len(self._batches)
        log.start_epoch(self._elapsed)
        with log.bar(epoch + 1, len(self._batches), done) as shown:
            batches = self._on_device(loader)
            while window := list(islice(batches, self._window(done))):
                self._seed_step()
                try:
                    values = training_step(self._fabric, trained, window)
                except TrainingDiverged as error:
                    raise TrainingDiverged(self._advice(error, epoch, done)) from error
                self._means.add(values)
                done += len(window)
                self._trained += len(window)
                shown(done, float(values["loss"]))
                if done < len(self._batches):
                    self._elapsed = log.elapsed
                    self._stop_if_asked(request, save=True)

    def _window(self, done: int) -> int:
        """How many batches make up the next step; the epoch's last may have fewer."""
        return min(self._accumulate, len(self._batches) - done)

    def _on_device(self, loader: DataLoader[tuple[Tensor, int]]) -> Iterator[Batch]:
        for images, labels in loader:
            yield (
                images.to(self._fabric.device, non_blocking=True, memory_format=torch.channels_last),
                labels.to(self._fabric.device, non_blocking=True),
            )

    def _seed_step(self) -> None:
        """Tie the step's random numbers (dropout, stochastic depth) to its number."""
        key = (self._recipe.machine.seed, self._trained, self._fabric.global_rank)
        torch.manual_seed(hash(key) % 2**63)

    def _end_epoch(self, epoch: int, log: EpochLog) -> None:
        """Measure, write the row, save: the best first, so that a kill between the two repeats the epoch."""
        validation = self.validate()
        rates = {group["name"]: group["lr"] for group in self._optimizer.param_groups}
        log.end_epoch(epoch + 1, self._means.read(), validation, rates)
        self._means, self._elapsed = Means(), 0.0
        if validation and validation["val_accuracy"] > self._best_accuracy:
            self._best_accuracy, self.best_epoch = validation["val_accuracy"], epoch + 1
            best = {"epoch": epoch + 1, "accuracy": self._best_accuracy, "model": self._model.state_dict()}
            self._save(self._run.best_checkpoint, {"format": FORMAT, **best})
        self._save_last()

    def validate(self) -> dict[str, float]:
        """Mean cross-entropy and accuracy on the validation part; nothing where there is none."""
        if not len(self._val):
            return {}
        fabric, sums = self._fabric, torch.zeros(3, dtype=torch.float64)
        if fabric.world_size > 1:  # the running statistics of the first rank are those that are saved
            for buffer in self._model.buffers():
                torch.distributed.broadcast(buffer, src=0)
        loader = eval_loader(
            self._val,
            batch_size=self._recipe.data.batch_size,
            workers=self._recipe.data.workers,
            rank=fabric.global_rank,
            ranks=fabric.world_size,
        )
        half = torch.autocast(fabric.device.type, torch.bfloat16, enabled=self._bf16)
        with torch.no_grad(), eval_mode(self._model), half:
            for images, labels in self._on_device(loader):
                logits = self._model(images).logits
                loss = F.cross_entropy(logits, labels, reduction="sum")
                hits = (logits.argmax(dim=1) == labels).sum()
                sums += torch.stack([loss, hits.to(loss), loss.new_tensor(len(labels))]).cpu()
        total: Any = fabric.all_reduce(sums.to(fabric.device, torch.float32), reduce_op="sum")
        loss, hits, count = total.tolist()
        return {"val_loss": loss / count, "val_accuracy": hits / count}

    def _stop_if_asked(self, request: StopRequest, *, save: bool = False) -> None:
        """Leave, all ranks together, if a signal came to any of them."""
        asked = torch.tensor(float(bool(request.signum)), device=self._fabric.device)
        if float(self._fabric.all_reduce(asked, reduce_op="sum")):  # pyright: ignore[reportArgumentType]
            if save:
                self._save_last()
            raise Interrupted(request.signum or signal.SIGTERM)

    def _save_last(self) -> None:
        state = {
            "format": FORMAT,
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "means": self._means.state_dict(),
            "trained": self._trained,
            "elapsed": self._elapsed,
        }
        self._save(self._run.last_checkpoint, state)

    def _save(self, path: Path, state: dict[str, Any]) -> None:
        if self._fabric.is_global_zero:
            write_checkpoint(path, state)
        self._fabric.barrier()

    def _advice(self, error: TrainingDiverged, epoch: int, done: int) -> str:
        optimization = self._recipe.optimization
        return (
            f"{error} in epoch {epoch + 1}, step {done + 1}; the learning rates ({optimization.lr} and "
            f"{optimization.backbone_lr}) are probably too high, or the weight of this term: lower them, or "
            "clip with --clip 1"
        )


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint to the disk itself, so that a kill or a power cut leaves the old one or the new."""
    with replacing(path) as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, on the CPU and without running code from it.

    Raises:
        RunError: if it is damaged, or of another version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["format"]
    except Exception as error:  # torch's own errors have no common base
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{path}: no checkpoint of ggam, or damaged ({reason}); start a new run") from error
    if found != FORMAT:
        raise RunError(f"{path}: a checkpoint of format {found}, expected {FORMAT}; start a new run")
    return state
