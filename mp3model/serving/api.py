"""A model's folder in; a service that forecasts over HTTP, with its page, jobs and metrics, out."""

from __future__ import annotations

import asyncio
import functools
import logging
import mimetypes
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse

from mp3model import __version__
from mp3model.files import InputError
from mp3model.serving import schemas
from mp3model.serving.answers import as_json
from mp3model.serving.guard import RETRY_SECONDS, Guard, refused
from mp3model.serving.jobs import Job
from mp3model.serving.requests import ATTRIBUTION_FIELDS, Limits, Refusal
from mp3model.serving.service import Service
from mp3model.serving.uploads import Sent, received

WEB = Path(__file__).resolve().parent / "web"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_DESCRIPTION = (
    "Forecasts how songs will stream: a curve a region with its uncertainty, given that the song charts there."
)


_log = logging.getLogger(__name__)


class _Json(JSONResponse):
    """Of what is JSON already; a `JSONResponse` so that its description is taken to be of JSON."""

    def render(self, content: bytes) -> bytes:
        return content


class _Events(StreamingResponse):
    media_type = "text/event-stream"


class _Text(Response):
    media_type = "text/plain"


def create_app(
    model_folder: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    api_key: str | None = None,
    hosts: Sequence[str] | None = None,
    device: str | None = None,
) -> FastAPI:
    """The service as an ASGI application; the model is loaded now, once.

    Args:
        model_folder: RUN/model of recipes/mp3.py.
        data: Dataset folder, for floors, artists and other songs as of the forecasts' dates.
        limits: Of what may be asked.
        api_key: Asked of every request under /v1 and of /metrics, or None.
        hosts: Names that it may be called by; None is any.
        device: cpu, cuda, ...; None is the GPU where there is one.

    Raises:
        InputError: If the model or the dataset cannot be used.
    """
    service = Service(Path(model_folder), None if data is None else Path(data), limits, device)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="mp3model", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.service = service
    app.add_exception_handler(HTTPException, _http_fault)
    app.add_middleware(Guard, service.limits, service.metrics, api_key, hosts)
    _add_forecasts(app, service)
    _add_jobs(app, service)
    _add_knowledge(app, service)
    _add_page(app)
    app.openapi = functools.cache(functools.partial(_openapi, app, api_key is not None))  # type: ignore[method-assign]
    return app


async def _http_fault(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: ("not_found", "no such address"), 405: ("method_not_allowed", "not by this method")}
    code, message = codes.get(error.status_code, ("bad_request", str(error.detail)))
    answer = refused(Refusal(error.status_code, code, message))
    answer.headers.update(error.headers or {})
    return answer


def _add_forecasts(app: FastAPI, service: Service) -> None:
    config = service.forecaster.model.config
    responses = schemas.errors(400, 408, 413, 415, 422) | {
        200: {"model": schemas.ForecastAnswer | schemas.ForecastAnswers, "description": "one song, or none"},
        202: {"model": schemas.JobHead, "description": "several songs: a job", "headers": {"Location": _LOCATION}},
    }
    body = schemas.forecast_body(
        service.regions, service.limits, config.horizon, bool(config.descriptors), service.data is not None
    )

    @app.post("/v1/forecasts", responses=responses, response_class=_Json, openapi_extra={"requestBody": body})
    async def forecasts(request: Request) -> Response:
        """Forecasts one song at once, several as a job, in some regions and for one or several release dates."""
        with service.gate.entered():
            sent = await received(request, service.regions, service.limits)
            keep = False
            try:
                if len(sent.files) > 1:
                    job = _start(service, sent)
                    keep = True
                    return _Json(as_json(job.head()), 202, {"Location": f"/v1/jobs/{job.identity}"})
                answers = await _in_time(service, service.forecasts(sent, 0))
            finally:
                if not keep:
                    sent.close()
        several = len(sent.asked.dates) > 1
        return _Json(b'{"forecasts":[' + b",".join(answers) + b"]}" if several else answers[0])

    kept = schemas.errors(400, 408, 413, 415, 422) | {200: {"model": schemas.AttributionAnswer}}
    body = schemas.attribution_body(service.regions, service.limits)

    @app.post("/v1/attributions", responses=kept, response_class=_Json, openapi_extra={"requestBody": body})
    async def effects(request: Request) -> Response:
        """Which seconds of a song move its forecast: what the log total loses when one of them is silent."""
        with service.attribution_gate.entered():
            sent = await received(request, service.regions, service.limits, ATTRIBUTION_FIELDS)
            try:
                if len(sent.files) != 1 or len(sent.asked.dates) != 1:
                    raise Refusal(422, "invalid_field", "give one file and at most one release date")
                sent = replace(sent, asked=replace(sent.asked, samples=min(sent.asked.samples, 256)))
                return _Json(await _in_time(service, service.effects(sent)))
            finally:
                sent.close()


_LOCATION = {"schema": {"type": "string"}, "description": "where to ask for it"}


async def _in_time(service: Service, work: Any) -> Any:
    try:
        async with asyncio.timeout(service.limits.request_seconds):
            return await work
    except TimeoutError as error:
        told = f"took longer than {service.limits.request_seconds:g} s; ask for less, or come again later"
        raise Refusal(503, "timed_out", told, RETRY_SECONDS) from error


def _start(service: Service, sent: Sent) -> Job:
    async def work(number: int) -> bytes:
        label = sent.labels[number]
        head = as_json({"track_id": label})[:-1]
        try:
            answers = await service.forecasts(sent, number)
        except Refusal as refusal:
            return as_json({"track_id": label} | refusal.body())
        except Exception:  # the other files are still answered
            _log.exception("a file of a job")
            return as_json({"track_id": label} | Refusal(500, "internal", "a defect of the server").body())
        finally:
            sent.files[number].file.close()
        return head + b',"forecasts":[' + b",".join(answers) + b"]}"

    # Whose periods they are is known at once, and told at once.
    for label in sent.labels:
        sent.asked.observed_of(label, sent.labels)
    return service.jobs.start(sent.labels, work, sent.close)


def _add_jobs(app: FastAPI, service: Service) -> None:
    told = schemas.errors(404, 422) | {200: {"model": schemas.JobAnswer}}

    @app.get("/v1/jobs/{identity}", responses=told, response_class=_Json)
    async def job(identity: str) -> Response:
        """How far a job is, and what is done of it."""
        return _Json(service.jobs.get(identity).told())

    streamed = schemas.errors(404, 422, answers_json=False) | {
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
    }

    @app.get("/v1/jobs/{identity}/events", responses=streamed, response_class=_Events)
    async def events(identity: str) -> Response:
        """Server-sent events: `progress` after each file, `done` at the end."""
        return _Events(service.jobs.get(identity).events(service.stopped))

    @app.delete(
        "/v1/jobs/{identity}",
        responses=schemas.errors(404, 422, answers_json=False),
        status_code=204,
        response_class=Response,
    )
    async def remove(identity: str) -> Response:
        """Stops a job and forgets it."""
        await service.jobs.remove(identity)
        return Response(status_code=204)


def _add_knowledge(app: FastAPI, service: Service) -> None:
    about, about_regions = as_json(service.about()), as_json(service.about_regions())

    def answers(model: Any) -> dict[int | str, dict[str, Any]]:
        return schemas.errors() | {200: {"model": model}}

    @app.get("/v1/model", responses=answers(schemas.ModelAnswer), response_class=_Json)
    async def model() -> Response:
        """What answers here, and what may be asked of it."""
        return _Json(about)

    @app.get("/v1/regions", responses=answers(schemas.RegionsAnswer), response_class=_Json)
    async def regions() -> Response:
        """The regions that can be asked about."""
        return _Json(about_regions)

    @app.get("/healthz", responses=answers(schemas.Health), response_class=_Json)
    async def health() -> Response:
        """Whether it lives."""
        return _Json(as_json({"status": "ok"}))

    @app.get("/readyz", responses=answers(schemas.Health), response_class=_Json)
    async def ready() -> Response:
        """Whether the next question would be taken."""
        if service.gate.full or not service.desk.alive:
            raise Refusal(503, "busy", "no room for another question; come again later", RETRY_SECONDS)
        return _Json(as_json({"status": "ok"}))

    content: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
    }

    @app.get("/metrics", responses=schemas.errors(answers_json=False) | content, response_class=_Text)
    async def metrics() -> Response:
        """Counts and times, as Prometheus reads them."""
        service.metrics.waiting.set(service.desk.waiting)
        service.metrics.jobs.set(len(service.jobs))
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI) -> None:
    """The page's files, read now: no address is ever made into a path."""

    def add(address: str, content: bytes, kind: str) -> None:
        async def page() -> Response:
            return Response(content, media_type=kind)

        app.api_route(address, methods=["GET", "HEAD"], include_in_schema=False)(page)

    for path in sorted(path for path in WEB.glob("*") if path.is_file()):
        kind = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(path.name)[0]
        content = path.read_bytes()
        add(f"/{path.name}", content, kind or "application/octet-stream")
        if path.name == "index.html":
            add("/", content, "text/html")


def _openapi(app: FastAPI, has_key: bool) -> dict[str, Any]:
    told = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
    if has_key:
        told["components"]["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
        told["security"] = [{"key": []}]
    return told


def serve(
    model_folder: str | os.PathLike[str],
    port: int = 8000,
    host: str = "127.0.0.1",
    data: str | os.PathLike[str] | None = None,
    api_key: str | None = None,
    workers: int = 2,
    device: str | None = None,
) -> None:
    """Serves until it is interrupted; says in one line where.

    Args:
        model_folder, data, api_key, device: As for `create_app`.
        port: 0 is any that is free.
        host: An address of this machine.
        workers: Processes that decode audio.

    Raises:
        InputError: If the model or the dataset cannot be used, or the address is taken or none.
    """
    import uvicorn

    listening = _listening(host, port)
    is_local = host in LOOPBACK
    limits = Limits(decoders=workers)
    app = create_app(model_folder, data, limits, api_key, LOOPBACK if is_local else None, device)
    service: Service = app.state.service
    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=True,
        ws="none",
        timeout_keep_alive=10,
        timeout_graceful_shutdown=10,
        limit_concurrency=2 * limits.connections,
    )
    name = f"[{host}]" if ":" in host else host
    if not is_local and api_key is None:
        print("whoever reaches this address may ask; --api-key-file asks for a key", file=sys.stderr, flush=True)
    where = f"http://{name}:{listening.getsockname()[1]}"
    print(f"mp3model listens on {where} ({len(service.regions)} regions, model {model_folder})", flush=True)
    # It has stopped in good order by then.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(512)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"address {host} port {port}: cannot be listened on ({why}); choose another --port") from error
    return listening
