"""Runs claimed, kept alive and taken over through Optuna's storage."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ggam.studies.queue import ATTEMPTS, Claim, RunQueue, StorageError, open_storage

BEAT = 0.1
Join = Callable[[], RunQueue]


@pytest.fixture(params=["journal:{}/journal.log", "sqlite:///{}/runs.db"])
def join(request: pytest.FixtureRequest, tmp_path: Path) -> Join:
    """Another worker on the same storage."""
    address = request.param.format(tmp_path)
    return lambda: RunQueue(open_storage(address), beat=BEAT)


def claimed(queue: RunQueue, *runs: str) -> Claim:
    claim = queue.claim(runs)
    assert claim is not None
    return claim


def test_each_run_is_claimed_once(join: Join) -> None:
    first, second = join(), join()
    assert claimed(first, "a", "b").run == "a"
    assert claimed(second, "a", "b").run == "b"
    assert first.claim(["a", "b"]) is None
    assert second.pending(["a", "b"]) == ["a", "b"]


def test_results_are_seen_by_every_worker(join: Join) -> None:
    first, second = join(), join()
    claimed(first, "a").complete({"top1": 0.5, "name": "η"})
    assert second.results() == {"a": {"top1": 0.5, "name": "η"}}
    assert second.pending(["a", "b"]) == ["b"]
    assert second.claim(["a"]) is None
    assert join().claim(["a"]) is None, "a finished run is never repeated, by later workers either"


def test_a_released_run_is_open_at_once(join: Join) -> None:
    first, second = join(), join()
    claimed(first, "a").release()
    assert claimed(second, "a").run == "a"
    assert second.reasons() == {}


def test_a_broken_run_is_retried_and_then_left(join: Join) -> None:
    queue = join()
    for _ in range(ATTEMPTS):
        claimed(queue, "a").fail("DataError: x.jpg")
    assert queue.claim(["a"]) is None
    assert queue.pending(["a", "b"]) == ["b"]
    assert queue.reasons() == {"a": "DataError: x.jpg"}
    assert claimed(join(), "a").run == "a", "a command started anew tries again"


def test_a_silent_worker_is_declared_dead(join: Join) -> None:
    dead, watcher = join(), join()
    claimed(dead, "a")
    assert watcher.claim(["a"]) is None
    time.sleep(6 * BEAT)
    assert claimed(watcher, "a").run == "a"
    assert "died" in watcher.reasons()["a"]
    assert str(os.getpid()) in watcher.reasons()["a"]


def test_a_worker_that_gives_signs_of_life_is_left_alone(join: Join) -> None:
    alive, watcher = join(), join()
    with claimed(alive, "a").kept_alive():
        until = time.monotonic() + 12 * BEAT
        while time.monotonic() < until:
            assert watcher.claim(["a"]) is None
            time.sleep(BEAT / 2)


@pytest.fixture
def terminations() -> Iterator[list[int]]:
    """The SIGTERMs that this process is sent."""
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda signum, frame: received.append(signum))
    yield received
    signal.signal(signal.SIGTERM, previous)


def test_a_worker_that_slept_stops_when_its_run_was_taken_over(join: Join, terminations: list[int]) -> None:
    sleeper, watcher = join(), join()
    claim = claimed(sleeper, "a")
    watcher.claim(["a"])
    time.sleep(6 * BEAT)
    taken = claimed(watcher, "a")
    with claim.kept_alive():
        time.sleep(3 * BEAT)
    assert claim.lost
    assert terminations == [signal.SIGTERM]
    claim.complete({"top1": 0.0})
    assert watcher.results() == {}, "what the sleeper did no longer counts"
    taken.complete({"top1": 1.0})
    assert watcher.results() == {"a": {"top1": 1.0}}


def test_many_workers_at_once_share_without_overlap(join: Join) -> None:
    runs = [f"run{index}" for index in range(6)]
    barrier = threading.Barrier(3)

    def worker(queue: RunQueue) -> list[str]:
        barrier.wait()
        mine = []
        while queue.pending(runs):
            claim = queue.claim(runs)
            if claim is None:
                time.sleep(0.01)
                continue
            time.sleep(0.01)
            claim.complete({})
            mine.append(claim.run)
        return mine

    queues = [RunQueue(join().storage, beat=30) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        shares = list(pool.map(worker, queues))
    assert sorted(run for share in shares for run in share) == runs


@pytest.mark.parametrize("address", ["nonsense", "sqlite:////no/such/folder/x.db", "journal:/dev/null/x"])
def test_a_storage_that_cannot_be_opened(address: str) -> None:
    with pytest.raises(StorageError, match="expected journal:FILE") as caught:
        open_storage(address)
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)
