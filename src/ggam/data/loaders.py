"""Batches whose content depends on (seed, epoch, position) only: not on workers, devices or restarts."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ggam.data.records import DataError, FineGrainedDataset


class Draw(NamedTuple):
    """One picture of one epoch."""

    epoch: int
    picture: int


@dataclass(eq=False)
class Augmented(Dataset[tuple[Tensor, int]]):
    """A training set addressed by `Draw`: each picture of each epoch has a random source of its own."""

    dataset: FineGrainedDataset
    seed: int

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

    Attributes:
        epoch: the epoch that the next iteration yields.
    """

    def __init__(self, count: int, batch_size: int, seed: int, *, rank: int = 0, ranks: int = 1) -> None:
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
        self.epoch = self._skip = 0

    def go_on(self, trained: int) -> None:
        """Have the next iteration start behind so many batches, counted over all epochs."""
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


def training_loader(
    dataset: FineGrainedDataset, batches: EpochBatches, seed: int, *, workers: int
) -> DataLoader[tuple[Tensor, int]]:
    """This rank's part of the batches of one epoch after another.

    Args:
        dataset: with an augmenting transform.
        batches: says which pictures, of which epoch.
        seed: of the crops.
        workers: decoding processes.
    """
    return _loader(Augmented(dataset, seed), workers, batch_sampler=batches)


def eval_loader(
    dataset: FineGrainedDataset, *, batch_size: int, workers: int = 0, rank: int = 0, ranks: int = 1
) -> DataLoader[tuple[Tensor, int]]:
    """Every picture once, in order; rank r of several takes every `ranks`-th, none twice."""
    part = dataset if ranks == 1 else dataset.subset(range(rank, len(dataset), ranks))
    return _loader(part, workers, batch_size=max(1, math.ceil(batch_size / ranks)))


def _loader(dataset: Dataset[Any], workers: int, **batches: Any) -> DataLoader[tuple[Tensor, int]]:
    return DataLoader(
        dataset,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_the_run,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        **batches,
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
