"""What holds for every request: headers, the token, and a polite end for uploads that are refused."""

import asyncio
import hmac
import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
OPEN = frozenset({"/", "/app.js", "/style.css", "/icon.svg", "/healthz", "/readyz"})
"""What needs no token: the page, which holds nothing, and the probes."""
_DRAIN_SECONDS = 2.0
_LOG = logging.getLogger("ggam.deploy.serve")
_FAILED = JSONResponse({"error": "the service failed; its log says why"}, 500)
_UNAUTHORIZED = JSONResponse(
    {"error": "the token is missing or wrong: expected the header Authorization: Bearer TOKEN"},
    401,
    {"WWW-Authenticate": "Bearer"},
)


class Guard:
    """Wraps the application.

    Args:
        app: what is guarded.
        token: callers send it as `Authorization: Bearer TOKEN`; None lets everybody in.
    """

    def __init__(self, app: ASGIApp, *, token: str | None) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive)
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(raw=list(message["headers"]))
                for name, value in HEADERS.items():
                    headers[name] = value
                if not await body.drained():
                    headers["Connection"] = "close"
                message = {**message, "headers": headers.raw}
            await send(message)

        app = self._app if self._lets_in(scope) else _UNAUTHORIZED
        try:
            await app(scope, body.receive, send_with_headers)
        except Exception:
            _LOG.exception("%s %s failed", scope["method"], scope["path"])
            if not started:
                await _FAILED(scope, body.receive, send_with_headers)

    def _lets_in(self, scope: Scope) -> bool:
        if self._expected is None or scope["path"] in OPEN:
            return True
        given = Headers(scope=scope).get("authorization", "")
        return hmac.compare_digest(given.encode(), self._expected)


class _Body:
    """The body of a request: knows whether it has been read to its end."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._ended = True
        return message

    async def drained(self) -> bool:
        """Read on for a moment: whoever is still sending would not see an answer before its end."""
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._ended:
                    await self.receive()
        except TimeoutError:
            return False
        return True
