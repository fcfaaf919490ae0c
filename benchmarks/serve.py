"""What the service carries: batched, unbatched, and a minimal endpoint around the same model.

The minimal endpoint is what FastAPI's own tutorial leads to: decode, predict, answer, in FastAPI's thread
pool, without limits, batches or metrics. The servers stand side by side, each in a process of its own, and
are asked in turn; a row is the median over the rounds. Clients send one JPEG of 500 × 375 pixels after
another and wait for each answer; they share the processor with the server.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/serve.py
    python benchmarks/serve.py --model runs/mine --seconds 20
    python benchmarks/serve.py --minutes 10     # memory under load, and overload
"""

import argparse
import asyncio
import io
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

import ggam

CLIENTS = (1, 8, 32)
KINDS = {"batched": (), "unbatched": ("--max-batch", "1"), "minimal": None}
"""The options of `ggam serve`, None for the minimal endpoint."""


class Load(NamedTuple):
    """What a number of clients saw of a server."""

    statuses: Counter[int]
    seconds: float
    latencies: list[float]

    def row(self) -> tuple[float, float, float, float]:
        """Requests a second that were answered with 200, and p50, p95 and p99 of them in ms."""
        p50, p95, p99 = (1000 * float(np.quantile(self.latencies, q)) for q in (0.5, 0.95, 0.99))
        return self.statuses[200] / self.seconds, p50, p95, p99


def request_bytes(host: str) -> bytes:
    """The whole HTTP request with its picture."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((375, 500, 3), np.uint8)
    for step, bits in ((60, 7), (12, 6), (2, 5)):  # detail on all scales, the finer the fainter
        noise = rng.integers(0, 2**bits, (375 // step, 500 // step, 3), dtype=np.uint8)
        pixels += np.asarray(Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    body = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
    body += buffer.getvalue() + b"\r\n--b--\r\n"
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def client(
    address: tuple[str, int], request: bytes, until: float, statuses: Counter[int], latencies: list[float]
) -> None:
    """Ask again and again; a connection that was closed is opened again."""
    reader = writer = None
    while time.perf_counter() < until:
        if writer is None or writer.is_closing():
            reader, writer = await asyncio.open_connection(*address)
        assert reader is not None
        start = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        await reader.readexactly(int(fields[b"content-length"]))
        status = int(head.split()[1])
        statuses[status] += 1
        if status == 200:
            latencies.append(time.perf_counter() - start)
        elif status == 429:
            await asyncio.sleep(0.05)  # less than it asks for: the overload is meant to last
        if fields.get(b"connection") == b"close":
            writer.close()
    if writer is not None:
        writer.close()


def load(port: int, clients: int, seconds: float) -> Load:
    """So many clients for so long."""
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    request = request_bytes("127.0.0.1")
    start = time.perf_counter()

    async def run() -> None:
        address = ("127.0.0.1", port)
        until = start + seconds
        await asyncio.gather(*(client(address, request, until, statuses, latencies) for _ in range(clients)))

    asyncio.run(run())
    return Load(statuses, time.perf_counter() - start, latencies)


@contextmanager
def server(model: Path, options: Sequence[str] | None) -> Iterator[int]:
    """A server in its own process: its port. Without options, the minimal endpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if options is None:
        line = [sys.executable, __file__, "--model", str(model), "--minimal", str(port)]
    else:
        line = [sys.executable, "-m", "ggam.cli", "serve", str(model), "--port", str(port), *options]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server did not start: {' '.join(line)}")
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def serve_minimal(model: Path, port: int) -> None:
    """The endpoint that the service is compared with."""
    import uvicorn
    from fastapi import FastAPI, UploadFile

    from ggam.deploy.predictor import open_predictor

    predictor = open_predictor(model)
    app = FastAPI()

    @app.post("/predict")
    def predict(images: UploadFile) -> list[tuple[str, float]]:
        with Image.open(images.file) as image:
            shares = predictor.predict(predictor.transform(image)[None]).probabilities[0]
        return [(predictor.class_names[index], float(shares[index])) for index in shares.argsort()[:-6:-1]]

    uvicorn.run(app, port=port, log_level="warning")


def compare(model: Path, rounds: int, seconds: float) -> None:
    """Print the table of loads."""
    with ExitStack() as stack:
        ports = {name: stack.enter_context(server(model, options)) for name, options in KINDS.items()}
        for port in ports.values():
            load(port, 4, 2)
        rows: dict[tuple[int, str], list[Load]] = {}
        for _ in range(rounds):
            for clients in CLIENTS:
                for name, port in ports.items():
                    rows.setdefault((clients, name), []).append(load(port, clients, seconds))
    show(rows)


def show(rows: Mapping[tuple[int, str], Sequence[Load]]) -> None:
    """Medians over the rounds, and the ratio of requests a second to the minimal endpoint's."""
    table = Table("clients", "", "requests/s", "ratio", "p50 ms", "p95 ms", "p99 ms", "not 200")
    for (clients, name), loads in rows.items():
        plain = [other.row()[0] for other in rows[clients, "minimal"]]
        ratio = statistics.median(own.row()[0] / other for own, other in zip(loads, plain, strict=True))
        rate, *latencies = (
            statistics.median(values) for values in zip(*(one.row() for one in loads), strict=True)
        )
        failed = sum(one.statuses.total() - one.statuses[200] for one in loads)
        numbers = [f"{value:.0f}" for value in latencies]
        table.add_row(str(clients), name, f"{rate:.1f}", f"{ratio:.2f} ×", *numbers, str(failed))
    Console().print(table)


def endure(model: Path, minutes: float) -> None:
    """Print the memory of a server under load, then what overload does to it."""
    console = Console()
    with server(model, ()) as port:
        load(port, 8, 5)
        table = Table("minute", "MiB", "requests/s", "p99 ms", "not 200")
        spent, steps = 0.0, max(1, round(2 * minutes))
        for _ in range(steps):
            step = load(port, 8, 60 * minutes / steps)
            spent += minutes / steps
            rate, _, _, p99 = step.row()
            failed = step.statuses.total() - step.statuses[200]
            table.add_row(f"{spent:.1f}", f"{_resident(port):.1f}", f"{rate:.1f}", f"{p99:.0f}", str(failed))
        console.print(table)
        calm = load(port, 1, 10).row()
        heavy = load(port, 160, 15)
        after = load(port, 1, 10)
        console.print(
            f"160 clients: {heavy.statuses[200]} answered with p99 {heavy.row()[3]:.0f} ms, "
            f"{heavy.statuses[429]} told to come again, {heavy.statuses.total()} in all; one client "
            f"before: p50 {calm[1]:.0f} ms, after: {after.row()[1]:.0f} ms, statuses {dict(after.statuses)}; "
            f"{_resident(port):.1f} MiB"
        )


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _resident(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as metrics:
        lines = metrics.read().decode().splitlines()
    line = next(line for line in lines if line.startswith("process_resident_memory_bytes "))
    return float(line.split()[1]) / 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the service carries.")
    parser.add_argument(
        "--model", type=Path, help="a run, model folder or ONNX file; default: an untrained one"
    )
    parser.add_argument("--backbone", default="resnet18", help="of the untrained model")
    parser.add_argument("--image-size", type=int, default=224, help="of the untrained model, in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each load in a round")
    parser.add_argument("--minutes", type=float, help="of load while memory is watched, instead of the table")
    parser.add_argument("--minimal", type=int, metavar="PORT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.minimal:
        serve_minimal(args.model, args.minimal)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or Path(folder, "model")
        if args.model is None:
            size = args.image_size
            ggam.save_model(ggam.create_model(args.backbone, 200, pretrained=False, image_size=size), model)
        if args.minutes:
            endure(model, args.minutes)
        else:
            compare(model, args.rounds, args.seconds)


if __name__ == "__main__":
    main()
