"""What a call costs in time and memory, measured so that a busy machine does not decide who is faster."""

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def take_turns(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds of every call in each round; call them once before, to warm up.

    Whatever else the machine does strikes all of them alike, so that ratios within a round hold where
    seconds do not. Each round goes in another order, drawn at random: what a call leaves behind, like threads
    that still spin, would otherwise always cost the same next one.

    Args:
        calls: what is timed, by name.
        rounds: how often.
        device: on which they compute; waited for before the clock is read.
        on_round: called after each round with the rounds done and their total.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    draw = random.Random(0)
    for turn in range(rounds):
        for name in draw.sample(list(calls), len(calls)):
            seconds[name].append(_time(calls[name], device))
        if on_round is not None:
            on_round(turn + 1, rounds)
    return seconds


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Bytes of tensors alive at once during a call, beyond those alive before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    profiler: Any = recorded.profiler
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def _time(call: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
