"""Pictures that arrive together go through the model together."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ggam.deploy.predictor import Predicted, Predictor
from ggam.deploy.serve.limits import Refusal
from ggam.deploy.serve.metrics import Metrics

_LOG = logging.getLogger("ggam.deploy.serve")


class Answered(NamedTuple):
    """What the model says of one picture."""

    probabilities: np.ndarray
    """(K,), calibrated."""
    explained: int
    """The class that the map explains."""
    heat: np.ndarray | None
    """(H, W), None from a model without maps."""


@dataclass(eq=False)
class _Job:
    image: Tensor
    explain: int
    done: asyncio.Future[Answered]


class Batcher:
    """A queue in front of the model, which runs in one thread of its own.

    A batch starts as soon as the model is free. It waits, at most `wait` seconds, only for pictures that
    are announced, so that a lone caller waits for nobody.

    Args:
        predictor: the model.
        max_batch: pictures at a time.
        wait: seconds.
        metrics: counts batches.
    """

    def __init__(self, predictor: Predictor, *, max_batch: int, wait: float, metrics: Metrics) -> None:
        self._arriving = 0
        self._predictor = predictor
        self._max_batch = max_batch
        self._wait = wait
        self._metrics = metrics
        self._jobs: deque[_Job] = deque()
        self._changed = asyncio.Event()
        self._model = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._worker: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def running(self) -> bool:
        """Whether pictures that are handed in will be looked at."""
        return self._worker is not None and not self._worker.done()

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._worker = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Drop what waits, and let the batch in the model end."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        while self._jobs:
            _fail(self._jobs.popleft(), Refusal(503, "the service is shutting down"))
        await asyncio.to_thread(self._model.shutdown)

    def submit(self, image: Tensor, explain: int) -> asyncio.Future[Answered]:
        """Queue one picture; a future that is cancelled is forgotten.

        Args:
            image: (3, h, w).
            explain: the class to explain, or `PREDICTED`.
        """
        job = _Job(image, explain, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._changed.set()
        return job.done

    @contextmanager
    def announced(self) -> Iterator[None]:
        """A block in which a picture is on its way: a batch that is being put together may wait for it."""
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1
            self._changed.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            jobs = await self._collect()
            if not jobs:
                continue
            try:
                predicted = await loop.run_in_executor(self._model, self._run, jobs)
            except Exception:  # the model's, of any kind: this batch fails, the service goes on
                _LOG.exception("the model failed on a batch of %d", len(jobs))
                for job in jobs:
                    _fail(job, Refusal(500, "the model failed; the log of the service says why"))
                continue
            for row, job in enumerate(jobs):
                if not job.done.done():
                    heat = None if predicted.maps is None else predicted.maps[row]
                    answer = Answered(predicted.probabilities[row], int(predicted.classes[row]), heat)
                    job.done.set_result(answer)

    async def _collect(self) -> list[_Job]:
        """The next batch; empty if all who asked have gone."""
        while not self._jobs:
            self._changed.clear()
            await self._changed.wait()
        deadline = time.monotonic() + self._wait
        while len(self._jobs) < self._max_batch and self._arriving > 0:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                break
        jobs: list[_Job] = []
        while self._jobs and len(jobs) < self._max_batch:
            job = self._jobs.popleft()
            if not job.done.done():
                jobs.append(job)
        return jobs

    def _run(self, jobs: list[_Job]) -> Predicted:
        start = time.perf_counter()
        explain = [job.explain for job in jobs]
        predicted = self._predictor.predict(torch.stack([job.image for job in jobs]), explain)
        if not np.isfinite(predicted.probabilities).all():
            raise ValueError("probabilities are not finite: damaged weights, or a training that diverged")
        self._metrics.batch_size.observe(len(jobs))
        self._metrics.model_seconds.observe(time.perf_counter() - start)
        return predicted


def _fail(job: _Job, reason: Refusal) -> None:
    if not job.done.done():
        job.done.set_exception(reason)
