"""The way of a request: admitted, received, decoded, looked at, drawn."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, cast, get_args

import numpy as np

from ggam.deploy.predictor import Predictor
from ggam.deploy.serve.answers import Answer, Box, Guess, HeatMap, MapKind, PictureAnswer
from ggam.deploy.serve.batching import Answered, Batcher
from ggam.deploy.serve.limits import Limits, Refusal
from ggam.deploy.serve.metrics import Metrics
from ggam.deploy.serve.pictures import Picture, overlay_png, read_picture
from ggam.deploy.serve.upload import Holding, Upload, receive
from ggam.methods.base import PREDICTED

_DEFAULT_TOP = 5


@dataclass(frozen=True)
class Question:
    """What is asked about every picture of a request."""

    top: int
    kind: MapKind
    classes: tuple[int, ...]
    """The classes to explain; `PREDICTED` for the most probable one."""


class Service:
    """A model with everything around it but HTTP.

    Args:
        predictor: the model.
        limits: what it takes on.
    """

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self.predictor = predictor
        self.limits = limits
        self.metrics = Metrics()
        self.batcher = Batcher(
            predictor, max_batch=limits.max_batch, wait=limits.batch_wait / 1000, metrics=self.metrics
        )
        self._decoders = ThreadPoolExecutor(limits.decoders, thread_name_prefix="decode")
        self._holding = Holding(limits.max_held_bytes)
        self._in_hand = 0
        # Decoded pictures take megabytes each: no more of them than keep the model busy.
        self._slots = asyncio.Semaphore(4 * limits.max_batch)
        watch = self.metrics.watch
        watch("ggam_requests_in_hand", "Requests being received or answered.", lambda: self._in_hand)
        watch("ggam_queue_length", "Pictures waiting for the model.", lambda: len(self.batcher))
        watch("ggam_held_bytes", "Bytes of uploaded files in memory.", lambda: self._holding.size)

    async def start(self) -> None:
        """Begin to work."""
        self.batcher.start()

    async def close(self) -> None:
        """End; what is still waiting is dropped."""
        await self.batcher.close()
        await asyncio.to_thread(self._decoders.shutdown, cancel_futures=True)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A block in which one request is in hand.

        Raises:
            Refusal: 429 if too many are, 503 if the service is ending.
        """
        if not self.batcher.running:
            raise Refusal(503, "the service is shutting down")
        if self._in_hand >= self.limits.max_queue:
            raise Refusal(429, "too many requests in hand; try again in a moment", retry_after=1)
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1

    @asynccontextmanager
    async def received(
        self, body: AsyncIterable[bytes], content_type: str, length: str | None
    ) -> AsyncIterator[Upload]:
        """A block with what the form of a request holds.

        Raises:
            Refusal: as `ggam.deploy.serve.upload.receive` says.
        """
        upload = await receive(body, content_type, length, self.limits, self._holding)
        try:
            yield upload
        finally:
            self._holding.give_back(sum(map(len, upload.pictures)))

    async def answer(self, upload: Upload) -> Answer:
        """Look at all pictures of a request.

        Raises:
            Refusal: if the question makes no sense, a picture cannot be decoded, or the model failed.
        """
        question = self._question(upload)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._look(number, data, question))
                    for number, data in enumerate(upload.pictures, 1)
                ]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        self.metrics.pictures.inc(len(tasks))
        return Answer(pictures=[task.result() for task in tasks])

    def _question(self, upload: Upload) -> Question:
        given = [(name, value.strip()) for name, value in upload.fields]
        single = dict(given)
        kind, top = single.get("map", "none"), single.get("top", str(_DEFAULT_TOP))
        if kind not in get_args(MapKind):
            raise Refusal(422, f"map={kind[:40]!r}: expected {', '.join(get_args(MapKind))}")
        if not top.isascii() or not top.isdigit() or not 1 <= int(top) <= 1000:
            raise Refusal(422, f"top={top[:40]!r}: expected how many classes to name, from 1 to 1000")
        wanted = dict.fromkeys(self._class_index(value) for name, value in given if name == "classes")
        if wanted and self.predictor.maps != "any":
            has = "the most probable class only" if self.predictor.maps == "top" else "no class"
            raise Refusal(422, f"classes: this model has a heat map of {has}; leave the field out")
        if wanted and kind == "none":
            raise Refusal(422, "classes: expected map=overlay or map=raw with it")
        if kind != "none" and self.predictor.maps == "none":
            raise Refusal(422, f"map={kind!r}: this model has no heat maps")
        classes = tuple(wanted) or (PREDICTED,)
        if len(classes) * len(upload.pictures) > self.limits.max_files:
            raise Refusal(413, f"pictures times classes: at most {self.limits.max_files} in one request")
        return Question(int(top), cast(MapKind, kind), classes)

    def _class_index(self, value: str) -> int:
        names = self.predictor.class_names
        if value in names:
            return names.index(value)
        if value.isascii() and value.isdigit() and len(value) < 10 and int(value) < len(names):
            return int(value)
        expected = f"expected a name of /model, or an index from 0 to {len(names) - 1}"
        raise Refusal(422, f"classes={value[:80]!r}: no such class; {expected}")

    async def _look(self, number: int, data: bytearray, question: Question) -> PictureAnswer:
        async with self._slots:
            with self.batcher.announced():
                try:
                    picture = await self._in_pool(
                        read_picture,
                        data,
                        self.predictor.transform,
                        max_pixels=self.limits.max_pixels,
                        crop=question.kind == "overlay",
                    )
                except Refusal as refusal:
                    raise Refusal(refusal.status, f"picture {number} {refusal.reason}") from refusal
                jobs = [self.batcher.submit(picture.image, index) for index in question.classes]
            answered = await asyncio.gather(*jobs)
            return await self._in_pool(self._describe, picture, answered, question)

    async def _in_pool(self, call: Callable[..., Any], *args: object, **options: object) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoders, lambda: call(*args, **options))

    def _describe(self, picture: Picture, answered: Sequence[Answered], question: Question) -> PictureAnswer:
        probabilities = answered[0].probabilities
        best = np.argsort(-probabilities, kind="stable")[: question.top]
        return PictureAnswer(
            width=picture.size[0],
            height=picture.size[1],
            region=Box(**picture.region._asdict()),
            classes=[Guess(**self._guess(int(index), probabilities)) for index in best],
            maps=[self._map(picture, answer, question) for answer in answered if question.kind != "none"],
        )

    def _map(self, picture: Picture, answer: Answered, question: Question) -> HeatMap:
        assert answer.heat is not None  # the question was refused otherwise
        heat = HeatMap(
            **self._guess(answer.explained, answer.probabilities), empty=not bool((answer.heat > 0).any())
        )
        if question.kind == "raw":
            heat.values = answer.heat.tolist()
        elif picture.crop is not None:
            heat.overlay = overlay_png(picture.crop, answer.heat)
        return heat

    def _guess(self, index: int, probabilities: np.ndarray) -> dict[str, Any]:
        names = self.predictor.class_names
        return {"index": index, "name": names[index], "probability": float(probabilities[index])}
