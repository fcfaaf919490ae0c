"""Batches whose content depends on (seed, epoch, position) only: not on workers, devices or restarts."""

import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ggam.data.records import DataError, FineGrainedDataset


class Draw(NamedTuple):
    """One picture of one epoch."""

    epoch: int
    picture: int


class Augmented(Dataset[tuple[Tensor, int]]):
    """A training set addressed by `Draw`: each picture of each epoch has a random source of its own."""

    def __init__(self, dataset: FineGrainedDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        sample = self.dataset.samples[draw.picture]
        rng = np.random.default_rng((self.seed, draw.epoch, draw.picture))
        return self.dataset.load(sample, rng), sample.label


class EpochBatches(Sampler[list[Draw]]):
    """Shuffled batches of a training epoch, cut into equal parts for the ranks of a process group.

    The order is drawn from (seed, epoch); rank r takes the r-th part of each batch, so that the
    batches of several devices together are those of one device. The last, incomplete batch is left
    out: BatchNorm would see too few pictures.

    Args:
        count: pictures in the training set.
        batch_size: pictures in a batch, over all ranks; at most `count`.
        seed: of the order.
        rank: which part.
        ranks: how many parts.
        trained: batches that a resumed run has seen already, over all epochs; the first iteration
            starts behind them.

    Attributes:
        epoch: the epoch that the next iteration yields.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, *, rank: int = 0, ranks: int = 1, trained: int = 0
    ) -> None:
        batch_size = min(batch_size, count // ranks * ranks)
        if batch_size < 2 * ranks or batch_size % ranks:
            raise ValueError(
                f"{count} training pictures in batches of {batch_size} on {ranks} devices: expected a batch "
                "size that the devices divide evenly, with at least 2 pictures each"
            )
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self.epoch, self._skip = divmod(trained, len(self))

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[Draw]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        part = self.batch_size // self.ranks
        first, self._skip = self._skip, 0
        for batch in range(first, len(self)):
            start = batch * self.batch_size + self.rank * part
            yield [Draw(self.epoch, int(index)) for index in order[start : start + part]]


class FineGrainedDataModule(LightningDataModule):
    """The training and validation part of a run, cut for the ranks of its process group.

    Args:
        train: with an augmenting transform.
        val: with an evaluation transform; may be empty.
        batch_size: pictures per step, over all ranks.
        seed: of the order of the pictures and their crops.
        workers: decoding processes per rank.

    Attributes:
        trained: batches trained on so far, over all epochs; the training loop counts.
        batches: the sampler of the training loader, once there is one.
    """

    def __init__(
        self,
        train: FineGrainedDataset,
        val: FineGrainedDataset,
        *,
        batch_size: int,
        seed: int,
        workers: int,
    ) -> None:
        super().__init__()
        self.train = train
        self.val = val
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers
        self.trained = 0
        self.batches: EpochBatches | None = None

    def state_dict(self) -> dict[str, int]:
        """Where the run stands, for a checkpoint."""
        return {"trained": self.trained}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where a checkpoint stopped; Lightning calls it before it asks for the loaders."""
        self.trained = state_dict["trained"]

    def train_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """This rank's part of each batch, from where the run stands."""
        self.batches = EpochBatches(
            len(self.train), self.batch_size, self.seed, trained=self.trained, **self._place()
        )
        return DataLoader(
            Augmented(self.train, self.seed),
            batch_sampler=self.batches,
            num_workers=self.workers,
            worker_init_fn=_leave_signals_to_the_run,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """This rank's pictures."""
        return eval_loader(self.val, batch_size=self.batch_size, workers=self.workers, **self._place())

    def _place(self) -> dict[str, int]:
        assert self.trainer is not None
        return {"rank": self.trainer.global_rank, "ranks": self.trainer.world_size}


def eval_loader(
    dataset: FineGrainedDataset, *, batch_size: int, workers: int = 0, rank: int = 0, ranks: int = 1
) -> DataLoader[tuple[Tensor, int]]:
    """Every picture once, in order; rank r of several takes every `ranks`-th, none twice."""
    part = dataset if ranks == 1 else dataset.subset(range(rank, len(dataset), ranks))
    return DataLoader(
        part,
        batch_size=max(1, math.ceil(batch_size / ranks)),
        num_workers=workers,
        worker_init_fn=_leave_signals_to_the_run,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def without_traceback(error: DataError) -> DataError:
    """The error of a decoding process, without the traceback that torch puts before its message."""
    message = str(error).strip().splitlines()[-1]
    return DataError(message.removeprefix(f"{DataError.__module__}.{DataError.__name__}: "))


def _leave_signals_to_the_run(worker: int) -> None:
    """Leave the process group, to which Ctrl-C and `timeout` send their signals.

    The run saves everything before it ends, and must not lose its decoding processes before that. They
    end with it, whatever ends it.
    """
    os.setpgid(0, 0)
