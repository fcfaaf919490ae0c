"""Runs shared by many workers through Optuna's storage: claimed, kept alive, taken over.

Each attempt at a run is an Optuna trial whose user attribute `run` names the run. To claim a run, a worker
writes an attempt of its own, and only then looks for others: of two workers that come at once one at least
sees the other, and whoever sees another steps back. No database has to lock anything for that (SQLite would
let two workers change the state of one trial). While a worker trains, a thread of it counts up the trial's
`beat`. A worker that sees another's count stand still for some beats, on its own
clock, so that clocks need not agree, declares that attempt FAILed and the run open again. Should the
silent worker wake up, it ends at once: the run's folder is the other's now.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

ATTEMPTS = 2
"""How often a worker lets a run fail before it leaves it."""
DEATHS = 5
"""How many workers may die over a run before it is left."""
LOST = 75
"""The exit code of a worker whose run was taken over: "temporary failure" in sysexits.h."""
_PATIENCE = 4
"""Beats without a sign of life after which a worker counts as dead."""
_LIVE = (TrialState.RUNNING, TrialState.COMPLETE)
"""Attempts beside which there must be no other."""


class StorageError(ValueError):
    """A storage that cannot be opened."""


def open_storage(address: str) -> BaseStorage:
    """The storage at `journal:FILE`, or at the URL of a database (SQLAlchemy's form).

    Raises:
        StorageError: if it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if address.startswith("journal:"):
            file = Path(address.removeprefix("journal:"))
            file.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(file)))
        return RDBStorage(address)
    except (OSError, ImportError, ValueError, StorageInternalError, SQLAlchemyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StorageError(
            f"--storage {address}: cannot be opened ({reason}); expected journal:FILE, or the URL of a "
            "database like sqlite:///FILE or postgresql://HOST/NAME, with its driver installed"
        ) from error


class RunQueue:
    """The attempts at the runs of one folder or database.

    Args:
        storage: shared by all workers.
        name: of what the runs are on; one storage can hold the runs on several data sets.
        beat: seconds between two signs of life.
    """

    def __init__(self, storage: BaseStorage, name: str, *, beat: float = 15.0) -> None:
        self.storage = storage
        self.beat = beat
        self._study = _open_study(storage, name)
        self._first = len(self._trials())
        self._seen: dict[int, tuple[Any, float]] = {}

    def claim(self, runs: Sequence[str]) -> "Claim | None":
        """Claim the first of the runs that is open to be worked on; None if there is none just now.

        Runs that are finished, running elsewhere, or have failed too often here are left alone.
        """
        self._declare_dead()
        attempts = self._attempts()
        for run in runs:
            tried = attempts.get(run, [])
            if any(trial.state in _LIVE for trial in tried) or self.reason(run, tried) is not None:
                continue
            claimed = self._take(run)
            if claimed is not None:
                return claimed
        return None

    def pending(self, runs: Sequence[str]) -> list[str]:
        """The runs that are neither finished nor given up; some of them may be running elsewhere."""
        attempts = self._attempts()
        return [
            run
            for run in runs
            if not any(trial.state == TrialState.COMPLETE for trial in attempts.get(run, []))
            and self.reason(run, attempts.get(run, [])) is None
        ]

    def results(self) -> dict[str, Mapping[str, Any]]:
        """What the finished runs left, by run."""
        return {
            trial.user_attrs["run"]: trial.user_attrs["results"]
            for trial in self._trials()
            if trial.state == TrialState.COMPLETE
        }

    def reasons(self) -> dict[str, str]:
        """Why runs failed, of those whose last attempt did."""
        return {
            run: tried[-1].user_attrs.get("reason", "unknown")
            for run, tried in self._attempts().items()
            if tried[-1].state == TrialState.FAIL
        }

    def reason(self, run: str, tried: Sequence[FrozenTrial] | None = None) -> str | None:
        """Why this worker leaves a run that failed too often since it started, else None."""
        tried = self._attempts().get(run, []) if tried is None else tried
        failed = [t for t in tried if t.state == TrialState.FAIL and t.number >= self._first]
        deaths = sum(t.user_attrs.get("died", False) for t in failed)
        if deaths < DEATHS and len(failed) - deaths < ATTEMPTS:
            return None
        return failed[-1].user_attrs.get("reason", "unknown")

    def _trials(self) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self._study, deepcopy=False)

    def _attempts(self) -> dict[str, list[FrozenTrial]]:
        attempts: dict[str, list[FrozenTrial]] = {}
        for trial in self._trials():
            attempts.setdefault(trial.user_attrs["run"], []).append(trial)
        return attempts

    def _id(self, trial: FrozenTrial) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._study, trial.number)

    def _take(self, run: str) -> "Claim | None":
        """Claim a run, unless another worker has, or is about to."""
        attributes = {"run": run, "worker": f"{socket.gethostname()}:{os.getpid()}"}
        attempt = create_trial(state=TrialState.RUNNING, user_attrs=attributes)
        trial = self.storage.create_new_trial(self._study, template_trial=attempt)
        claim = Claim(self, run, trial)
        live = [other for other in self._attempts()[run] if other.state in _LIVE]
        if any(self._id(other) != trial for other in live):
            claim.release()
            return None
        return claim

    def _declare_dead(self) -> None:
        """Open again what a worker holds that gave no sign of life for some beats."""
        now = time.monotonic()
        for trial in self._trials():
            if trial.state != TrialState.RUNNING:
                continue
            beat = trial.user_attrs.get("beat")
            known, since = self._seen.get(trial.number, (None, now))
            if trial.number not in self._seen or known != beat:
                self._seen[trial.number] = (beat, now)
            elif now - since > _PATIENCE * self.beat:
                worker = trial.user_attrs.get("worker", "unknown")
                reason = f"worker {worker} died"
                _end(self.storage, self._id(trial), TrialState.FAIL, reason=reason, died=True)


class Claim:
    """A run that this worker, and no other, works on."""

    def __init__(self, queue: RunQueue, run: str, trial: int) -> None:
        self.queue = queue
        self.run = run
        self.trial = trial

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Give signs of life while the block runs; end this process if the run was taken over."""
        done = threading.Event()
        thread = threading.Thread(target=self._beat, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def complete(self, results: Mapping[str, Any]) -> None:
        """Finished: keep the results where every worker sees them."""
        _end(self.queue.storage, self.trial, TrialState.COMPLETE, results=dict(results))

    def fail(self, reason: str) -> None:
        """Broken, for a reason in one line."""
        _end(self.queue.storage, self.trial, TrialState.FAIL, reason=reason)

    def release(self) -> None:
        """Stopped, with nothing said against the run."""
        _end(self.queue.storage, self.trial, TrialState.PRUNED)

    def _beat(self, done: threading.Event) -> None:
        count = 0
        while not done.is_set():
            count += 1
            try:
                self.queue.storage.set_trial_user_attr(self.trial, "beat", count)
            except UpdateFinishedTrialError:
                # At once: whatever this process still wrote would go between what the other writes.
                print(f"ggam: silent for too long, another worker has taken over {self.run}", file=sys.stderr)
                sys.stderr.flush()
                os._exit(LOST)
            except Exception:  # a storage that is not there just now may be back at the next beat
                continue
            finally:
                done.wait(self.queue.beat)


def _open_study(storage: BaseStorage, name: str) -> int:
    try:
        return storage.create_new_study([StudyDirection.MAXIMIZE], name)
    except DuplicatedStudyError:
        return storage.get_study_id_from_name(name)


def _end(storage: BaseStorage, trial: int, state: TrialState, **attributes: Any) -> None:
    """End an attempt, unless another worker has done so."""
    try:
        for name, value in attributes.items():
            storage.set_trial_user_attr(trial, name, value)
        storage.set_trial_state_values(trial, state, [0.0] if state == TrialState.COMPLETE else None)
    except UpdateFinishedTrialError:
        return
