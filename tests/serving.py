"""A model behind a real server, and pictures to send to it."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
from PIL import Image
from torch import Tensor

from ggam.data.transforms import ImageTransform
from ggam.deploy.predictor import Maps, Predictor
from ggam.deploy.serve.app import create_app
from ggam.deploy.serve.examples import Examples
from ggam.deploy.serve.limits import Limits
from ggam.deploy.serve.server import listen, server_for

NAMES = ("auk <b>", "booby", "crake", "dunlin", "12")


def photo(width: int = 90, height: int = 60, seed: int = 0) -> Image.Image:
    """A picture with large soft blotches."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@contextmanager
def serving(
    predictor: Predictor,
    limits: Limits | None = None,
    *,
    token: str | None = None,
    examples: Examples | None = None,
) -> Iterator[httpx.Client]:
    """A client of a server in a thread; the server ends with the block."""
    app = create_app(predictor, limits, token=token, examples=examples)
    started = threading.Event()
    server = server_for(app, 2, started.set)
    with listen("127.0.0.1", 0) as listener:
        host, port = listener.getsockname()
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert started.wait(10)
            with httpx.Client(base_url=f"http://{host}:{port}", timeout=20, trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(15)
    assert not thread.is_alive()


class SlowPredictor(Predictor):
    """Answers with the mean brightness of an image as the first logit, once it is let.

    Args:
        maps: as of any predictor.
    """

    def __init__(self, maps: Maps = "any") -> None:
        self.class_names = ("bright", "dark", "neither")
        self.transform = ImageTransform(8, (0.0,) * 3, (1.0,) * 3)
        self.temperature = 1.0
        self.maps = maps
        self.description = {"method": "slow", "classes": 3}
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.batches: list[int] = []
        self.broken = False
        self.diverged = False

    def _run(
        self, batch: Tensor, classes: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        self.entered.set()
        assert self.go.wait(20)
        self.batches.append(len(batch))
        if self.broken:
            raise RuntimeError("no more memory on the device")
        logits = np.zeros((len(batch), 3), np.float32)
        logits[:, 0] = np.nan if self.diverged else batch.mean(dim=(1, 2, 3)).numpy()
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        maps = None if self.maps == "none" else np.zeros((len(batch), 2, 2), np.float32)
        return logits, shares, maps

    def fingerprint(self) -> str:
        return "5107"
