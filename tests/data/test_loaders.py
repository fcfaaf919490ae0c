import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch.utils.data import DataLoader

from ggam.data.layouts.registry import load_dataset
from ggam.data.loaders import Augmented, Draw, EpochBatches, eval_loader
from ggam.data.records import FineGrainedDataset
from ggam.data.transforms import ImageTransform


def squares_dataset(root: Path, *, augment: bool) -> FineGrainedDataset:
    transform = ImageTransform(24, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), augment=augment)
    return load_dataset(root, split="train").with_transform(transform)


@given(count=st.integers(8, 60), per_rank=st.integers(2, 5), ranks=st.integers(1, 3), seed=st.integers(0, 9))
def test_ranks_together_see_the_batches_of_one_process(
    count: int, per_rank: int, ranks: int, seed: int
) -> None:
    batch_size = per_rank * ranks
    if count < batch_size:
        count = batch_size
    whole = list(EpochBatches(count, batch_size, seed))
    parts = [list(EpochBatches(count, batch_size, seed, rank=r, ranks=ranks)) for r in range(ranks)]

    assert [[draw for part in parts for draw in part[i]] for i in range(len(whole))] == whole
    drawn = [draw.picture for batch in whole for draw in batch]
    assert len(set(drawn)) == len(drawn) == count // batch_size * batch_size


@given(trained=st.integers(0, 14))
def test_a_resumed_sampler_goes_on_where_it_stopped(trained: int) -> None:
    def draws(sampler: EpochBatches, epochs: range) -> list[list[Draw]]:
        batches = []
        for epoch in epochs:
            sampler.epoch = epoch
            batches += list(sampler)
        return batches

    whole = draws(EpochBatches(20, 4, 7), range(3))
    resumed = EpochBatches(20, 4, 7)
    resumed.go_on(trained)
    assert resumed.epoch == trained // 5
    assert draws(resumed, range(trained // 5, 3)) == whole[trained:]
    assert draws(resumed, range(3)) == whole, "only the first epoch is cut"


def test_epochs_are_shuffled_differently() -> None:
    sampler = EpochBatches(20, 4, 0)
    first = list(sampler)
    sampler.epoch = 1
    second = list(sampler)
    assert [d.picture for b in first for d in b] != [d.picture for b in second for d in b]


def test_a_small_set_is_one_batch() -> None:
    assert len(EpochBatches(5, 32, 0)) == 1


@pytest.mark.parametrize(("count", "batch", "ranks"), [(1, 32, 1), (10, 3, 2), (3, 32, 2)])
def test_batches_that_cannot_be_trained_on_are_refused(count: int, batch: int, ranks: int) -> None:
    with pytest.raises(ValueError, match=f"{count} training pictures in batches"):
        EpochBatches(count, batch, 0, ranks=ranks)


def test_pictures_depend_on_seed_and_epoch_but_not_on_workers(squares: Path) -> None:
    data = Augmented(squares_dataset(squares, augment=True), seed=3)

    def epoch(workers: int, number: int) -> torch.Tensor:
        sampler = EpochBatches(len(data), 6, 3)
        sampler.epoch = number
        loader = DataLoader(data, batch_sampler=sampler, num_workers=workers)
        return torch.cat([images for images, _ in loader])

    assert torch.equal(epoch(0, 0), epoch(2, 0))
    assert not torch.equal(epoch(0, 0), epoch(0, 1))


def test_evaluation_shards_cover_every_picture_once(squares: Path) -> None:
    data = squares_dataset(squares, augment=False)
    data = data.subset(range(7))
    shards = [eval_loader(data, batch_size=4, rank=rank, ranks=3) for rank in range(3)]
    seen = torch.cat([images for shard in shards for images, _ in shard])
    whole = torch.cat([images for images, _ in eval_loader(data, batch_size=4)])
    assert len(seen) == len(whole) == 7
    keys = [np.sort(part.sum(dim=(1, 2, 3)).numpy()) for part in (seen, whole)]
    np.testing.assert_allclose(*keys, rtol=1e-6)


class ProcessGroup:
    """Instead of a picture, the process group of the process that decodes it."""

    def __call__(self, image: object, **_: object) -> torch.Tensor:
        return torch.tensor(os.getpgid(0))


def test_a_signal_to_the_runs_process_group_spares_the_decoding_processes(squares: Path) -> None:
    dataset = load_dataset(squares, split="test").with_transform(ProcessGroup())  # pyright: ignore[reportArgumentType]
    groups = {int(group) for batch, _ in eval_loader(dataset, batch_size=4, workers=2) for group in batch}
    assert len(groups) == 2
    assert os.getpgid(0) not in groups
