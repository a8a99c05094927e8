"""Every HTTP request in; it is refused, or let in with its body measured as it comes, and counted; safe headers out."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mp3model.serving.answers import as_json
from mp3model.serving.requests import Limits, Refusal

RETRY_SECONDS = 5
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
# What a disconnected client was "answered", in the words of the nginx log.
_GONE = 499

_log = logging.getLogger(__name__)


class Metrics:
    """What `/metrics` tells, of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        names = ("method", "route", "status")
        self.requests = Counter("mp3model_requests", "Requests answered.", names, registry=self.registry)
        self.seconds = Histogram(
            "mp3model_request_seconds",
            "From the first byte to the last.",
            ("route",),
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
            registry=self.registry,
        )
        self.open = Gauge("mp3model_open_requests", "Requests that are not answered yet.", registry=self.registry)
        self.waiting = Gauge("mp3model_waiting", "Songs that wait for the model.", registry=self.registry)
        self.jobs = Gauge("mp3model_jobs", "Jobs kept, done or not.", registry=self.registry)
        self.forecasts = Counter("mp3model_forecasts", "Songs and dates forecast.", registry=self.registry)
        self.refusals = Counter("mp3model_refusals", "Refused requests.", ("code",), registry=self.registry)


class Gate:
    """Lets so many in at once.

    Args:
        room: How many.
        what: They are called so in a refusal.
    """

    def __init__(self, room: int, what: str) -> None:
        self._room, self._what = room, what
        self.inside = 0

    @property
    def full(self) -> bool:
        """Whether the next one is refused."""
        return self.inside >= self._room

    @contextmanager
    def entered(self) -> Iterator[None]:
        """For as long as one is inside.

        Raises:
            Refusal: 503 if it is full.
        """
        if self.full:
            raise Refusal(503, "busy", f"{self._room} {self._what} wait already; come again later", RETRY_SECONDS)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


def refused(refusal: Refusal) -> Response:
    """A refusal as a response."""
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(as_json(refusal.body()), refusal.status, headers, "application/json")


class Guard:
    """The outermost part of the service.

    Args:
        app: What is guarded.
        limits: Of bodies, connections and times.
        metrics: Are counted here.
        api_key: Asked of everything under /v1 and of /metrics, as `X-API-Key` or a bearer token; None asks nothing.
        hosts: Names that the service may be called by, or None for any: a page of another site can point a name of its
            own at a service on the loopback, and read its answers.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        api_key: str | None = None,
        hosts: Sequence[str] | None = None,
    ) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._key, self._hosts = api_key, hosts
        self._gate = Gate(limits.connections, "requests")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI calls it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        began, said = time.perf_counter(), _Said(scope, send)
        self._metrics.open.inc()
        try:
            await self._guarded(scope, receive, said)
        except ClientDisconnect:
            said.status = said.status or _GONE
        finally:
            self._metrics.open.dec()
            route = str(getattr(scope.get("route"), "path", "none"))
            method = scope["method"] if scope["method"] in ("GET", "POST", "DELETE", "HEAD", "OPTIONS") else "other"
            self._metrics.requests.labels(method, route, str(said.status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)

    async def _guarded(self, scope: Scope, receive: Receive, said: _Said) -> None:
        try:
            with self._gate.entered():
                limit = self._checked(scope)
                await self._app(scope, self._measured(receive, limit), said.send)
        except Refusal as refusal:
            self._metrics.refusals.labels(refusal.code).inc()
            if not said.status:
                await refused(refusal)(scope, receive, said.send)
        except ClientDisconnect:
            raise
        except Exception:
            _log.exception("%s %s", scope["method"], scope["path"])
            if not said.status:
                await refused(Refusal(500, "internal", "a defect of the server; its log says more"))(
                    scope, receive, said.send
                )

    def _checked(self, scope: Scope) -> int:
        """Bytes that the body may have, by what the headers say; raises what they are refused for."""
        headers = Headers(scope=scope)
        if self._hosts is not None and _host_of(headers.get("host", "")) not in self._hosts:
            raise Refusal(403, "wrong_host", "this service is called by another name")
        # Without it, a form on any page could make the service work, though not read what it answers.
        if scope["method"] not in ("GET", "HEAD") and headers.get("sec-fetch-site", "none") not in (
            *("none", "same-origin"),
        ):
            raise Refusal(403, "other_site", "asked for by another site's page")
        if self._key is not None and scope["path"].startswith(("/v1", "/metrics")):
            bearer = headers.get("authorization", "").removeprefix("Bearer ")
            given = headers.get("x-api-key", bearer)
            if not hmac.compare_digest(given.encode(), self._key.encode()):
                raise Refusal(401, "unauthorized", "give the API key as X-API-Key")
        is_form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        limit = self._limits.body_bytes if is_form else self._limits.json_bytes
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            raise _too_large(limit)
        return limit

    def _measured(self, receive: Receive, limit: int) -> Receive:
        read, ended = 0, False
        until = time.monotonic() + self._limits.upload_seconds

        async def measured() -> Message:
            nonlocal read, ended
            if ended:
                return await receive()
            try:
                left = max(0.0, until - time.monotonic())
                message = await asyncio.wait_for(receive(), min(left, self._limits.idle_seconds))
            except TimeoutError as error:
                raise Refusal(408, "too_slow", "the body came too slowly") from error
            read += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if read > limit:
                raise _too_large(limit)
            return message

        return measured


class _Said:
    """Sends an answer on with the safe headers, and remembers its status."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self._is_page = not scope["path"].startswith("/v1")
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-cache" if self._is_page else "no-store")
        await self._send(message)


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "body_too_large", f"the body is larger than {limit} bytes")


def _host_of(header: str) -> Any:
    """The name in a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()
