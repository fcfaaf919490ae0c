"""Runs claimed, kept alive and taken over through Optuna's storage."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ggam.studies.queue import ATTEMPTS, LOST, Claim, RunQueue, StorageError, open_storage

BEAT = 0.1
Join = Callable[[], RunQueue]


@pytest.fixture(params=["journal:{}/journal.log", "sqlite:///{}/runs.db"])
def join(request: pytest.FixtureRequest, tmp_path: Path) -> Join:
    """Another worker on the same storage."""
    address = request.param.format(tmp_path)
    return lambda: RunQueue(open_storage(address), "ggam-test", beat=BEAT)


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
    claimed(watcher, "b").release()
    assert "died" in watcher.reasons()["a"]
    assert str(os.getpid()) in watcher.reasons()["a"]
    assert claimed(watcher, "a").run == "a"
    assert watcher.reasons() == {}, "it runs again"


def test_a_worker_that_gives_signs_of_life_is_left_alone(join: Join) -> None:
    alive, watcher = join(), join()
    with claimed(alive, "a").kept_alive():
        until = time.monotonic() + 12 * BEAT
        while time.monotonic() < until:
            assert watcher.claim(["a"]) is None
            time.sleep(BEAT / 2)


SLEEPER = """
import sys, time
import ggam
from ggam.studies.queue import RunQueue, open_storage
claim = RunQueue(open_storage(sys.argv[1]), "ggam-test", beat=0.1).claim(["a"])
print("claimed", flush=True)
sys.stdin.readline()
with claim.kept_alive():
    time.sleep(20)
print("still at work")
"""


def test_a_worker_that_slept_ends_at_once_when_its_run_was_taken_over(tmp_path: Path) -> None:
    address = f"journal:{tmp_path}/journal.log"
    command, pipe = [sys.executable, "-c", SLEEPER, address], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as sleeper:
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline() == "claimed\n"
        watcher = RunQueue(open_storage(address), "ggam-test", beat=BEAT)
        assert watcher.claim(["a"]) is None
        time.sleep(6 * BEAT)
        taken = claimed(watcher, "a")
        output, error = sleeper.communicate("\n", timeout=30)
    assert sleeper.returncode == LOST
    assert "another worker has taken over a" in error
    assert not output
    taken.complete({"top1": 1.0})
    assert watcher.results() == {"a": {"top1": 1.0}}


def test_two_data_sets_in_one_storage_do_not_mix(join: Join) -> None:
    birds = join()
    flowers = RunQueue(birds.storage, "ggam-flowers", beat=BEAT)
    claimed(birds, "a").complete({"top1": 0.5})
    assert flowers.results() == {}
    assert claimed(flowers, "a").run == "a"


def test_a_storage_that_is_away_for_a_moment_costs_no_run(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, watcher = join(), join()
    claim = claimed(queue, "a")
    write, failures = queue.storage.set_trial_user_attr, iter([OSError("away"), OSError("still away")])

    def fail_twice(trial: int, key: str, value: object) -> None:
        if error := next(failures, None):
            raise error
        write(trial, key, value)

    monkeypatch.setattr(queue.storage, "set_trial_user_attr", fail_twice)
    with claim.kept_alive():
        until = time.monotonic() + 10 * BEAT
        while time.monotonic() < until:
            assert watcher.claim(["a"]) is None
            time.sleep(BEAT / 2)
    claim.complete({"top1": 1.0})
    assert watcher.results() == {"a": {"top1": 1.0}}


def test_workers_that_die_are_not_held_against_a_run_at_once(join: Join) -> None:
    watcher = join()
    for _ in range(2):
        claimed(join(), "a")
        watcher.claim(["a"])
        time.sleep(6 * BEAT)
        watcher.claim(["b"])
    assert "died" in watcher.reasons()["a"]
    assert watcher.pending(["a"]) == ["a"]


@pytest.mark.parametrize("attempt", range(4))
def test_many_workers_at_once_share_without_overlap(join: Join, attempt: int) -> None:
    runs = [f"run{index}" for index in range(6)]
    barrier = threading.Barrier(4)

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

    queues = [RunQueue(join().storage, "ggam-test", beat=30) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(worker, queues))
    assert sorted(run for share in shares for run in share) == runs


@pytest.mark.parametrize("address", ["nonsense", "sqlite:////no/such/folder/x.db", "journal:/dev/null/x"])
def test_a_storage_that_cannot_be_opened(address: str) -> None:
    with pytest.raises(StorageError, match="expected journal:FILE") as caught:
        open_storage(address)
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)
