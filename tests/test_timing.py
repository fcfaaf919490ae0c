"""Turns and peak memory."""

import time

import pytest
import torch

from ggam.timing import peak_memory, take_turns

CPU = torch.device("cpu")


def test_calls_take_turns_and_none_always_follows_the_same() -> None:
    called = []
    rounds = []
    calls = {name: lambda name=name: called.append(name) for name in "abc"}
    seconds = take_turns(calls, 3, CPU, on_round=lambda done, total: rounds.append((done, total)))
    assert "".join(called) == "abc" + "bca" + "cab"
    assert rounds == [(1, 3), (2, 3), (3, 3)]
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}


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
