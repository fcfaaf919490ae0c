"""Turns and peak memory."""

import time
from itertools import pairwise, permutations

import pytest
import torch

from ggam.system.timing import peak_memory, take_turns

CPU = torch.device("cpu")


def test_calls_take_turns_and_none_always_follows_the_same() -> None:
    called = []
    rounds = []
    calls = {name: lambda name=name: called.append(name) for name in "abc"}
    seconds = take_turns(calls, 12, CPU, on_round=lambda done, total: rounds.append((done, total)))
    turns = [called[start : start + 3] for start in range(0, 36, 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    followed = {(before, after) for before, after in pairwise(called) if before != after}
    assert followed == set(permutations("abc", 2))
    assert rounds == [(done, 12) for done in range(1, 13)]
    assert {name: len(times) for name, times in seconds.items()} == {"a": 12, "b": 12, "c": 12}


def test_the_slow_one_is_seen() -> None:
    seconds = take_turns({"slow": lambda: time.sleep(0.02), "quick": lambda: None}, 2, CPU)
    assert min(seconds["slow"]) >= 0.02 > max(seconds["quick"])


@pytest.mark.parametrize("kept", [1, 3])
def test_peak_memory_counts_what_is_alive_at_once(kept: int) -> None:
    mebibyte = 2**20

    def call() -> None:
        alive = [torch.empty(mebibyte, dtype=torch.uint8) for _ in range(kept)]
        del alive
        for _ in range(5):  # one after the other: no more than one at a time
            torch.empty(mebibyte, dtype=torch.uint8)

    assert peak_memory(call, CPU) == pytest.approx(kept * mebibyte, rel=0.01)
