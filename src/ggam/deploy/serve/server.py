"""The server process: a port, and an end that finishes what has begun."""

import logging
import math
import socket
import warnings
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from PIL import Image

from ggam.deploy.serve.limits import ServeError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        host: address or name.
        port: 0 takes any that is free.

    Raises:
        ServeError: if the address is not there, or the port is taken or forbidden.
    """
    if not 0 <= port <= 65535:
        raise ServeError(f"port {port}: expected a number from 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # Answers leave at once, connections inherit it; else each waits 40 ms for an acknowledgement
        # that the caller is in no hurry to send. asyncio sees to it only for sockets that it made.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        reason = error.strerror or str(error)
        raise ServeError(
            f"cannot listen on {host} port {port}: {reason}; choose with --host, --port"
        ) from error


def run(app: FastAPI, listener: socket.socket, *, grace: float, on_start: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM, then finish the requests in hand.

    Args:
        app: the application.
        listener: is closed at the end.
        grace: seconds that requests in hand have then.
        on_start: called when requests are answered.
    """
    # What the parsers say of damaged uploads would fill the log; what is too large is refused.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="PIL")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    server_for(app, grace, on_start).run(sockets=[listener])


def server_for(app: FastAPI, grace: float, on_start: Callable[[], None]) -> uvicorn.Server:
    """What `run` runs."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=math.ceil(grace),
    )
    return _Server(config, on_start)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()
