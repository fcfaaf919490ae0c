"""Batches, overload, time and callers who hang up, with a model whose speed the test decides."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch

from ggam.deploy.serve.batching import Batcher
from ggam.deploy.serve.limits import Limits, Refusal, ServeError
from ggam.deploy.serve.metrics import Metrics
from ggam.methods.base import PREDICTED
from serving import SlowPredictor, encoded, photo, serving

PNG = encoded(photo())


def post(client: httpx.Client) -> httpx.Response:
    return client.post("/predict", files={"images": PNG})


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def gauge(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(name + " ")))


def test_pictures_that_arrive_together_go_together() -> None:
    predictor = SlowPredictor()
    predictor.go.clear()
    with serving(predictor, Limits(max_batch=4)) as client, ThreadPoolExecutor(9) as pool:
        first = pool.submit(post, client)
        assert predictor.entered.wait(10)
        rest = [pool.submit(post, client) for _ in range(8)]
        until(lambda: gauge(client, "ggam_queue_length") == 8)
        predictor.go.set()
        assert {answer.result().status_code for answer in (first, *rest)} == {200}
    assert predictor.batches == [1, 4, 4]


def test_too_many_requests_are_told_to_come_again_and_then_served() -> None:
    predictor = SlowPredictor()
    predictor.go.clear()
    with serving(predictor, Limits(max_queue=3)) as client, ThreadPoolExecutor(3) as pool:
        admitted = [pool.submit(post, client) for _ in range(3)]
        until(lambda: gauge(client, "ggam_requests_in_hand") == 3)
        refused = post(client)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == 200, "the loop is not blocked"
        predictor.go.set()
        assert {answer.result().status_code for answer in admitted} == {200}
        assert post(client).status_code == 200


def test_no_answer_in_time() -> None:
    predictor = SlowPredictor()
    predictor.go.clear()
    with serving(predictor, Limits(timeout=0.3)) as client:
        late = post(client)
        assert (late.status_code, late.json()) == (
            504,
            {"error": "no answer within 0.3 seconds; try again later"},
        )
        predictor.go.set()
        until(lambda: post(client).status_code == 200)
        assert gauge(client, "ggam_held_bytes") == 0


def test_an_upload_that_dawdles() -> None:
    with serving(SlowPredictor(), Limits(timeout=0.3)) as client:
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address) as caller:
            caller.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
            answer = caller.makefile("rb").read()  # until the server closes
        assert b"408 Request Timeout" in answer
        assert b"connection: close" in answer.lower()
        assert b"the upload took more than 0.3 seconds" in answer
        assert gauge(client, "ggam_requests_in_hand") == 0


def test_the_work_of_a_caller_who_hangs_up_is_dropped() -> None:
    predictor = SlowPredictor()
    predictor.go.clear()
    with serving(predictor) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, client)
        assert predictor.entered.wait(10)
        request = httpx.Request("POST", client.base_url, files={"images": PNG})
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {request.headers['content-length']}\r\n"
        head += f"Content-Type: {request.headers['content-type']}\r\n\r\n"
        with socket.create_connection((client.base_url.host, client.base_url.port)) as caller:
            caller.sendall(head.encode() + request.read())
            until(lambda: gauge(client, "ggam_queue_length") == 1)
        until(lambda: gauge(client, "ggam_requests_in_hand") == 1)
        predictor.go.set()
        assert first.result().status_code == 200
        assert post(client).status_code == 200
        assert 'outcome="gone"} 1.0' in client.get("/metrics").text
    assert predictor.batches == [1, 1], "nobody looked at the second one"


def test_what_has_begun_is_finished_at_the_end() -> None:
    predictor = SlowPredictor()
    predictor.go.clear()
    with ThreadPoolExecutor(1) as pool:
        with serving(predictor) as client:
            answer = pool.submit(httpx.post, f"{client.base_url}/predict", files={"images": PNG})
            assert predictor.entered.wait(10)
            threading.Timer(0.4, predictor.go.set).start()
        assert answer.result().status_code == 200


async def run_batcher(jobs: int, wait: float, announce: bool) -> tuple[list[int], float]:
    predictor = SlowPredictor()
    batcher = Batcher(predictor, max_batch=4, wait=wait, metrics=Metrics())
    batcher.start()
    start = time.monotonic()
    image = torch.zeros(3, 8, 8)
    if announce:
        with batcher.announced():
            first = batcher.submit(image, PREDICTED)
            await asyncio.sleep(0.05)
            answers = [first, *(batcher.submit(image, PREDICTED) for _ in range(jobs - 1))]
    else:
        answers = [batcher.submit(image, PREDICTED) for _ in range(jobs)]
    await asyncio.gather(*answers)
    seconds = time.monotonic() - start
    await batcher.close()
    assert not batcher.running
    return predictor.batches, seconds


def test_a_lone_picture_waits_for_nobody() -> None:
    batches, seconds = asyncio.run(run_batcher(1, wait=5, announce=False))
    assert batches == [1]
    assert seconds < 2


def test_a_batch_waits_for_what_is_announced_but_not_for_long() -> None:
    assert asyncio.run(run_batcher(3, wait=5, announce=True))[0] == [3]
    assert asyncio.run(run_batcher(3, wait=0.001, announce=True))[0] == [1, 2]


def test_what_waits_at_the_end_is_refused() -> None:
    async def run() -> None:
        predictor = SlowPredictor()
        predictor.go.clear()
        batcher = Batcher(predictor, max_batch=1, wait=0, metrics=Metrics())
        batcher.start()
        jobs = [batcher.submit(torch.zeros(3, 8, 8), PREDICTED) for _ in range(2)]
        while not predictor.entered.is_set():
            await asyncio.sleep(0.01)
        threading.Timer(0.1, predictor.go.set).start()
        await batcher.close()
        with pytest.raises(Refusal, match="shutting down"):
            await jobs[1]

    asyncio.run(run())


@pytest.mark.parametrize("name", ["max_bytes", "timeout", "max_queue", "max_batch", "decoders"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_limits_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(ServeError, match=f"{name}="):
        Limits(**{name: value})  # pyright: ignore[reportArgumentType]
