"""The service as a web application."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib import resources
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from ggam._version import __version__
from ggam.deploy.predictor import Predictor
from ggam.deploy.serve.answers import Answer, Form, Health, ModelAnswer, Problem
from ggam.deploy.serve.examples import Examples
from ggam.deploy.serve.guard import Guard
from ggam.deploy.serve.limits import Limits, Refusal
from ggam.deploy.serve.service import Service

_PAGE = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_FORM = {"required": True, "content": {"multipart/form-data": {"schema": Form.model_json_schema()}}}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "The form cannot be read",
        401: "The token is missing or wrong",
        408: "The upload took too long",
        413: "Too many bytes, pixels or pictures",
        415: "No form, or not a picture",
        422: "Damaged picture, unknown class or field",
        429: "Too much in hand; see Retry-After",
        500: "The model failed",
        503: "Shutting down",
        504: "Took too long",
    }.items()
}
_OUTCOMES = {408: "timeout", 429: "busy", 499: "gone", 500: "failed", 503: "closing", 504: "timeout"}
Result = TypeVar("Result")


class _Gone(Exception):
    """The caller has hung up."""


def create_app(
    predictor: Predictor,
    limits: Limits | None = None,
    *,
    token: str | None = None,
    examples: Examples | None = None,
) -> FastAPI:
    """The application around a model: the page at `/`, and `/predict`, `/model` and the probes.

    Args:
        predictor: the model.
        limits: what it takes on; None takes the defaults.
        token: what callers must send; None lets everybody in.
        examples: pictures of the classes for the page.
    """
    service = Service(predictor, limits or Limits())
    examples = examples or Examples(None, 0)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.close()

    app = FastAPI(
        title="ggam",
        version=__version__,
        summary="Fine-grained classification with heat maps",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page for it loads from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.add_middleware(Guard, token=token)
    _add_errors(app)
    _add_page(app)
    _add_status(app, service, examples)

    @app.post("/predict", responses=_PROBLEMS, openapi_extra={"requestBody": _FORM})
    async def predict(request: Request) -> Answer:
        """Name what pictures show, and show where the model saw it."""
        start = time.perf_counter()
        outcome = "failed"
        try:
            answer = await _answer(service, request)
            outcome = "ok"
            service.metrics.seconds.observe(time.perf_counter() - start)
            return answer
        except Refusal as refusal:
            outcome = _OUTCOMES.get(refusal.status, "refused")
            raise
        finally:
            service.metrics.requests.labels(outcome).inc()

    return app


async def _answer(service: Service, request: Request) -> Answer:
    receiving = True
    try:
        with service.admitted():
            async with asyncio.timeout(service.limits.timeout):
                headers = request.headers
                kind, length = headers.get("content-type", ""), headers.get("content-length")
                async with service.received(request.stream(), kind, length) as upload:
                    receiving = False
                    return await _unless_gone(service.answer(upload), request)
    except TimeoutError as error:
        seconds = f"{service.limits.timeout:g} seconds"
        if receiving:
            raise Refusal(408, f"the upload took more than {seconds}") from error
        raise Refusal(504, f"no answer within {seconds}; try again later", retry_after=5) from error
    except (ClientDisconnect, _Gone):
        raise Refusal(499, "the caller has hung up") from None


async def _unless_gone(work: Awaitable[Result], request: Request) -> Result:
    """Do the work, but drop it when the caller hangs up."""
    doing = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise _Gone
        return doing.result()
    finally:
        gone.cancel()
        if not doing.done():
            doing.cancel()
            await asyncio.wait({doing})


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add_errors(app: FastAPI) -> None:
    """Every answer that is not a success is {"error": one line}."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        return JSONResponse({"error": refusal.reason}, refusal.status, refusal.headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail).lower()}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"error": "; ".join(found["msg"] for found in error.errors())}, 422)


def _add_page(app: FastAPI) -> None:
    """The page and its files, which are read once."""
    folder = resources.files("ggam.deploy.serve") / "static"
    for path, (name, kind) in _PAGE.items():
        content = Response((folder / name).read_bytes(), media_type=kind)
        app.router.routes.append(Route(path, content, methods=["GET", "HEAD"]))


def _add_status(app: FastAPI, service: Service, examples: Examples) -> None:
    predictor = service.predictor
    fingerprint = predictor.fingerprint()

    @app.get("/healthz")
    async def healthz() -> Health:
        """Whether the process answers."""
        return Health(status="ok")

    @app.get("/readyz", responses={503: {"model": Problem}})
    async def readyz() -> Health:
        """Whether pictures are taken."""
        if not service.batcher.running:
            raise Refusal(503, "the service is shutting down")
        return Health(status="ready")

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters in Prometheus's text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/model", responses={401: {"model": Problem}})
    async def model() -> ModelAnswer:
        """What is served, and its limits."""
        return ModelAnswer(
            description=predictor.description,
            fingerprint=fingerprint,
            class_names=list(predictor.class_names),
            maps=predictor.maps,
            limits=asdict(service.limits),
            examples=examples.counts(),
        )

    @app.get("/examples/{index}/{number}", response_class=Response, responses={404: {"model": Problem}})
    def example(index: int, number: int) -> Response:
        """An example picture of a class, as a small JPEG."""
        try:
            return Response(examples.jpeg(index, number), media_type="image/jpeg")
        except (KeyError, OSError) as error:
            raise Refusal(404, "no such example") from error
