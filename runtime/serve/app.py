"""The application: what belongs to a server, put together, as an ASGI application.

build_app(settings) -> Starlette; uvicorn, the tests and Ray Serve run the same
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from runtime.codec import Codec
from runtime.errors import OutputError
from runtime.protocol import INGEST_PATH
from runtime.serve.classify import open_classifier
from runtime.serve.cuts import Cuts
from runtime.serve.desk import Desk
from runtime.serve.events import Events
from runtime.serve.http_decode import Uploads
from runtime.serve.intake import Intake
from runtime.serve.metrics import CONTENT_TYPE, Metrics
from runtime.serve.openapi import document
from runtime.serve.session import Session
from runtime.serve.settings import LOOPBACK, ServerSettings
from runtime.serve.store import Store
from runtime.serve.tokens import COOKIE, Tokens, bearer
from runtime.serve.views import Views
from runtime.stream import Limits

LOG = logging.getLogger("cutoff.serve")


class Server:
    """What the routes share; found as `request.app.state.server`.

    Attributes:
        settings, tokens, events, metrics: there from the beginning.
        store, cuts: there from the beginning, too.
        intake, uploads, exact_id: from `start` on.
        ready: frames are taken; from `start` until `stop`.
    """

    def __init__(
        self, settings: ServerSettings, environment: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Check secrets and open the store.

        Raises:
            ConfigurationError, OutputError: see `Tokens.read` and `Store`.
        """
        self.settings, self.clock = settings, clock
        self.tokens = Tokens.read(settings, environment)
        self.events, self.metrics = Events(), Metrics()
        self.store = Store(settings.store, self._limits)
        self.metrics.store_bytes.set(self.store.stream_bytes)
        self.cuts = Cuts(settings.decode.bundle, settings.classifier, self._limits)
        self.intake: Intake | None = None
        self.uploads: Uploads | None = None
        self.exact_id = ""
        self.ready = False

    def viewer(self, connection: HTTPConnection) -> str | None:
        """Return who looks, by the header `Authorization: Bearer` or the cookie; None if nobody who may.

        Where no token is needed, the server must have been asked by a name of this machine: a name of another site
        that was made to mean 127.0.0.1 would let that site's pages look.
        """
        if self.tokens.open_to_viewers and not _is_loopback(connection.headers.get("host", "")):
            return None
        token = bearer(connection.headers.get("authorization")) or connection.cookies.get(COOKIE)
        return self.tokens.viewer_of(token)

    async def start(self) -> None:
        """Open engines, measure their costs, and take frames from then on.

        Raises:
            CutoffError: bundle, engine or classifier cannot be opened.
        """
        decode = self.settings.decode
        codecs = await asyncio.to_thread(lambda: [self._codec() for _ in range(decode.workers)])
        self.exact_id = codecs[0].bundle.exact_id.hex()
        classifier = self.settings.classifier
        classify = None if classifier is None else await asyncio.to_thread(open_classifier, classifier)
        desk = Desk(
            codecs,
            classify,
            enough=None if classifier is None else classifier.enough,
            watched=lambda: self.events.watched,
            open_pixels=self.settings.limits.open_pixels,
            clock=self.clock,
        )
        desk.start()
        self.intake = Intake(desk, self.store, self.events, self.metrics, self.settings.limits, self.clock)
        self.uploads = Uploads(desk, self.tokens, self.settings.limits, self.clock)
        self.ready = True
        LOG.info("ready: %s, %d worker(s)", codecs[0].bundle.name, len(codecs))

    async def stop(self) -> None:
        """Answer what is open, and close the store."""
        self.ready = False
        if self.intake is not None:
            await self.intake.close()
        await asyncio.to_thread(self.cuts.close)
        self.store.close()

    async def retain(self) -> None:
        """Look after the store now and then, for ever."""
        while True:
            await asyncio.sleep(self.settings.store.every_s)
            try:
                trimmed, deleted = await asyncio.to_thread(self.store.retain)
            except Exception as fault:  # whatever it is, it is no reason never to look again
                self.metrics.store_errors.inc()
                LOG.error("the store cannot be looked after: %s", fault, exc_info=not isinstance(fault, OutputError))
                continue
            self.metrics.trimmed.inc(trimmed)
            self.metrics.deleted.inc(deleted)
            self.metrics.store_bytes.set(self.store.stream_bytes)

    @property
    def _limits(self) -> Limits:
        decode = self.settings.decode
        return Limits(pixels=decode.pixels, body_bytes=self.settings.limits.frame_bytes, seconds=decode.seconds)

    def _codec(self) -> Codec:
        decode, limits = self.settings.decode, self._limits
        codec = Codec.open(decode.bundle, decode.engine, decode.threads, limits, precision=decode.precision)
        for width, height in decode.warm_sizes:
            codec.warm(width, height)
        return codec


def server_of(connection: HTTPConnection) -> Server:
    """Return the server that a request or WebSocket belongs to."""
    server: Server = connection.app.state.server
    return server


def build_app(settings: ServerSettings, environment: Mapping[str, str] = os.environ) -> Starlette:
    """Return the application of *settings*; engines open when it starts.

    Raises:
        ConfigurationError, OutputError: secrets or store are not as they must be.
    """
    server = Server(settings, environment)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            await server.start()
        except BaseException:
            server.store.close()
            raise
        retention = asyncio.create_task(server.retain())
        try:
            yield
        finally:
            retention.cancel()
            await server.stop()

    views = Views(
        server.store, server.events, server.cuts, server.viewer, server.tokens.viewer_of, settings.listen.request_s
    )
    app = Starlette(
        routes=[
            WebSocketRoute(INGEST_PATH, _ingest),
            Route("/v1/decode", _decode, methods=["POST"]),
            Route("/openapi.json", _openapi, methods=["GET"]),
            Route("/healthz", _health, methods=["GET"]),
            Route("/readyz", _readiness, methods=["GET"]),
            Route("/metrics", _metrics, methods=["GET"]),
            *views.routes(),
        ],
        lifespan=lifespan,
    )
    app.state.server = server
    return app


async def _ingest(websocket: WebSocket) -> None:
    server = server_of(websocket)
    if server.intake is None or not server.ready:
        await websocket.close(1013, "not ready")
        return
    await Session(websocket, server.intake, server.tokens, server.settings.limits, server.exact_id, server.clock).run()


async def _decode(request: Request) -> Response:
    server = server_of(request)
    if server.uploads is None or not server.ready:
        return JSONResponse({"error": "not ready"}, 503, {"Retry-After": "5"})
    return await server.uploads.answer(request)


async def _openapi(request: Request) -> Response:
    server = server_of(request)
    deadline_s = server.settings.limits.deadline_s
    return JSONResponse(document(deadline_s, open_to_viewers=server.tokens.open_to_viewers))


async def _health(request: Request) -> Response:
    server = server_of(request)
    if server.ready and server.intake is not None and not server.intake.desk.alive:
        return PlainTextResponse("a thread that decodes has ended\n", 503)
    return PlainTextResponse("ok\n")


async def _readiness(request: Request) -> Response:
    ready = server_of(request).ready
    return JSONResponse({"ready": ready}, 200 if ready else 503)


async def _metrics(request: Request) -> Response:
    server = server_of(request)
    if server.viewer(request) is None:
        return unauthorized()
    return Response(server.metrics.page(), media_type=CONTENT_TYPE)


def _is_loopback(host: str) -> bool:
    """Return whether a header `Host` names this machine as only this machine can."""
    try:
        return urlsplit(f"//{host}").hostname in LOOPBACK
    except ValueError:  # an odd bracket, such as "["
        return False


def unauthorized() -> Response:
    """Return the answer to a viewer without a token."""
    return JSONResponse({"error": "a token is needed"}, 401, {"WWW-Authenticate": "Bearer"})
