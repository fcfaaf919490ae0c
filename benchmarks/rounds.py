"""Side-by-side measurement: kinds take turns, ratios are medians over rounds, memory is the peak."""

import argparse
import statistics
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from ggam.system.timing import peak_memory, take_turns


class Cost(NamedTuple):
    """What one call costs."""

    seconds: float
    """Median over the rounds."""
    ratio: float
    """Median over the rounds of the time over the first kind's time in the same round."""
    memory: int
    """Bytes that the call needs at its peak, beyond what was allocated before it."""


def arguments(summary: str, precision: str) -> argparse.ArgumentParser:
    """The options that every benchmark of a network takes.

    Args:
        summary: what is measured, for `--help`.
        precision: the default, `bf16` or `fp32`.
    """
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, default=8, help="pictures")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default=precision)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def title(what: str, args: argparse.Namespace) -> str:
    """What was measured, and with which options."""
    return (
        f"{what}, {args.backbone}, batch {args.batch_size} @{args.image_size}, {args.precision}, "
        f"{args.device}, {args.rounds} rounds"
    )


def measure(kinds: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, Cost]:
    """Time every kind once per round, after a warm-up; the first kind is what the others are held against."""
    for call in kinds.values():
        call()
    memory = {name: peak_memory(call, device) for name, call in kinds.items()}
    seconds = take_turns(kinds, rounds, device)
    plain = next(iter(seconds.values()))
    return {
        name: Cost(
            statistics.median(times),
            statistics.median(own / other for own, other in zip(times, plain, strict=True)),
            memory[name],
        )
        for name, times in seconds.items()
    }


def show(title: str, costs: Mapping[str, Cost]) -> None:
    """Print the costs as a table, times and memory as ratios to the first row."""
    table = Table("", "time", "peak memory", "ms", "MiB", title=title, title_justify="left")
    plain = next(iter(costs.values()))
    for name, cost in costs.items():
        table.add_row(
            name,
            f"{cost.ratio:.2f} ×",
            f"{cost.memory / plain.memory:.2f} ×",
            f"{1000 * cost.seconds:.0f}",
            f"{cost.memory / 2**20:.0f}",
        )
    Console().print(table)
