"""What people see: cameras, frames, and any frame's picture at any cut; everything here only reads.

    GET /                                                 the page; its files under /page/
    POST /v1/login                                        a viewer's token, into a cookie
    GET /v1/cameras                                       every camera, its state and its last frames
    GET /v1/cameras/{camera}/frames?limit=&before=        frames, newest first
    GET /v1/frames/{camera}/{sequence}?bytes=             steps and label at a cut
    GET /v1/frames/{camera}/{sequence}/picture?bytes=&width=&format=
    GET /v1/frames/{camera}/{sequence}/stream             the bytes that are kept
    WebSocket /v1/watch                                   what happens, as it happens

Events on /v1/watch are JSON, in text messages; those with a picture are binary: the length of the JSON (u32,
big-endian), the JSON, and a JPEG file. Viewers say nothing there.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from runtime.errors import CutoffError, Incomplete, OutputError
from runtime.patience import within
from runtime.protocol import MAX_SEQUENCE, Result
from runtime.serve.cuts import FORMATS, Busy, Cuts
from runtime.serve.events import CameraChanged, Event, Events, FrameProgress, Subscription
from runtime.serve.settings import ListenSettings
from runtime.serve.store import Store, StoredFrame
from runtime.serve.tokens import COOKIE, is_sound

PAGE = Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_RECORD = 60  # frames of a camera that the overview shows
MOST_FRAMES = 200  # listed at a time
WIDEST = 4096  # pixels of a picture that is made smaller
_LOGIN_BYTES = 4096
_FAILURES, _FAILURES_S = 20, 10  # logins from one address that may fail in so many seconds
_KEPT_FAILURES = 1000
_LOGIN_S = 30 * 86_400  # until a browser has to show its token again
_LENGTH = struct.Struct(">I")
_KEPT_S = 600  # a prefix's picture does not change; browsers may keep it for so long


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


Endpoint = Callable[[Request], Awaitable[Response]]


class Views:
    """The routes."""

    def __init__(
        self,
        store: Store,
        events: Events,
        cuts: Cuts,
        viewer: Callable[[HTTPConnection], str | None],
        viewer_of: Callable[[str | None], str | None],
        request_s: float = ListenSettings.request_s,
    ) -> None:
        """Show what is in *store*, and *events*, to everybody whom *viewer* knows.

        Args:
            cuts: decodes for viewers; belongs to the caller, who closes it.
            viewer: who looks; None if nobody who may.
            viewer_of: the same of a token alone.
            request_s: until the body of a login must be there.
        """
        self._store, self._events, self._cuts, self._viewer, self._viewer_of = store, events, cuts, viewer, viewer_of
        self._request_s = request_s
        self._failures: deque[tuple[float, str | None]] = deque(maxlen=_KEPT_FAILURES)

    def routes(self) -> list[BaseRoute]:
        """Return all routes."""
        frame = "/v1/frames/{camera}/{sequence}"
        return [
            *page_routes(),
            Route("/v1/login", self._login, methods=["POST"]),
            Route("/v1/cameras", self._guarded(self._cameras)),
            Route("/v1/cameras/{camera}/frames", self._guarded(self._frames)),
            Route(frame, self._guarded(self._frame)),
            Route(f"{frame}/picture", self._guarded(self._picture)),
            Route(f"{frame}/stream", self._guarded(self._stream)),
            WebSocketRoute("/v1/watch", self._watching),
        ]

    def _guarded(self, answer: Endpoint) -> Endpoint:
        """Let nobody through who may not view, and turn errors into answers."""

        async def endpoint(request: Request) -> Response:
            try:
                if not (_same_site(request) and self._viewer(request) is not None):
                    raise Refused(401, "a viewer's token is needed", {"WWW-Authenticate": "Bearer"})
                response = await answer(request)
            except Refused as fault:
                response = JSONResponse({"error": str(fault)}, fault.status, fault.headers)
            except Busy as fault:
                response = JSONResponse({"error": str(fault)}, 503, {"Retry-After": "1"})
            except OutputError as fault:
                response = JSONResponse({"error": str(fault)}, 500)
            except CutoffError as fault:
                response = JSONResponse({"error": str(fault)}, 422)
            response.headers.setdefault("Cache-Control", "no-store")
            response.headers.update(SECURITY)
            return response

        return endpoint

    async def _login(self, request: Request) -> Response:
        try:
            content = json.loads(await within(self._request_s, _body(request, _LOGIN_BYTES)))
        except (TimeoutError, asyncio.TimeoutError):
            return JSONResponse({"error": "the login took too long"}, 408, {**SECURITY, "Connection": "close"})
        except (ValueError, RecursionError, ClientDisconnect):  # and UnicodeDecodeError
            content = None
        token = content.get("token") if isinstance(content, dict) else None
        if not isinstance(token, str) or not _same_site(request):
            return JSONResponse({"error": 'what is needed is {"token": "..."}'}, 400, SECURITY)
        now, address = asyncio.get_running_loop().time(), request.client.host if request.client else None
        while self._failures and now - self._failures[0][0] >= _FAILURES_S:
            self._failures.popleft()
        if sum(who == address for _, who in self._failures) >= _FAILURES:
            return JSONResponse({"error": "too many attempts"}, 429, {**SECURITY, "Retry-After": str(_FAILURES_S)})
        if not is_sound(token) or self._viewer_of(token) is None:
            self._failures.append((now, address))
            return JSONResponse({"error": "this token is not known"}, 401, SECURITY)
        response = Response(status_code=204, headers=SECURITY)
        secure = request.scope["scheme"] == "https"
        response.set_cookie(COOKIE, token, _LOGIN_S, secure=secure, httponly=True, samesite="strict")
        return response

    async def _cameras(self, request: Request) -> Response:
        presence = dict(self._events.presence)

        def collect() -> list[dict[str, Any]]:
            found = []
            for name in sorted({*presence, *self._store.cameras()}):
                record = [frame_json(one) for one in reversed(self._store.frames(name, _RECORD))]
                heard = record[-1]["received"] if record else None
                change = presence.get(name) or CameraChanged(name, False, heard or 0.0)
                found.append(event_json(change) | {"heard": heard, "record": record})
            return found

        return JSONResponse({"cameras": await asyncio.to_thread(collect)})

    async def _frames(self, request: Request) -> Response:
        camera = request.path_params["camera"]
        limit = _number(request, "limit", 20, 1, MOST_FRAMES)
        before = _number(request, "before", None, 0, MAX_SEQUENCE + 1)
        assert limit is not None
        found = await asyncio.to_thread(self._store.frames, camera, limit + 1, before)
        shown = found[:limit]
        following = shown[-1].sequence if len(found) > limit else None
        return JSONResponse({"frames": [frame_json(one) for one in shown], "before": following})

    async def _frame(self, request: Request) -> Response:
        one, stream, cut = await self._cut(request)
        facts = await self._cuts.facts(stream, cut)
        earlier, later = await asyncio.to_thread(self._store.neighbours, one.camera, one.sequence)
        content = {
            "camera": one.camera,
            "sequence": one.sequence,
            "captured": one.captured,
            "held": len(stream),
            "earlier": earlier,
            "later": later,
            **dataclasses.asdict(facts),
            "size": one.size if facts.size is None else facts.size,
            "answer": None if one.result is None else frame_json(one),
        }
        return JSONResponse(content)

    async def _picture(self, request: Request) -> Response:
        _, stream, cut = await self._cut(request)
        width = _number(request, "width", None, 1, WIDEST)
        form = request.query_params.get("format") or _form_accepted(request)
        if form not in FORMATS:
            raise Refused(400, f"format must be one of {', '.join(FORMATS)}, not {form!r:.40}")
        # Retention may change the last bytes of what is kept, and with them the picture, so they are in the tag.
        digest = hashlib.sha256(stream[:cut]).hexdigest()[:16]
        headers = {
            "Cache-Control": f"private, max-age={_KEPT_S}",
            "ETag": f'"{digest}-{width or 0}-{form}"',
            "Vary": "Accept, Authorization, Cookie",
        }
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        try:
            file = await self._cuts.picture(stream[:cut], width, form)
        except Incomplete as fault:
            raise Refused(409, str(fault)) from fault
        return Response(file, media_type=FORMATS[form], headers=headers)

    async def _stream(self, request: Request) -> Response:
        one, stream = await self._found(request)
        name = f"{one.camera}-{one.sequence}.cut"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(stream, media_type="application/octet-stream", headers=headers)

    async def _found(self, request: Request) -> tuple[StoredFrame, bytes]:
        camera, text = request.path_params["camera"], request.path_params["sequence"]
        if text.isascii() and text.isdigit() and len(text) < 17 and int(text) <= MAX_SEQUENCE:
            one = await asyncio.to_thread(self._store.frame, camera, int(text))
            stream = None if one is None else await asyncio.to_thread(self._store.stream, one)
            if one is not None and stream is not None:
                return one, stream
        raise Refused(404, "this frame is not kept")

    async def _cut(self, request: Request) -> tuple[StoredFrame, bytes, int]:
        one, stream = await self._found(request)
        cut = _number(request, "bytes", len(stream), 0, MAX_SEQUENCE)
        assert cut is not None
        return one, stream, min(cut, len(stream))

    async def _watching(self, socket: WebSocket) -> None:
        if not (_same_site(socket) and self._viewer(socket) is not None):
            await socket.close(1008)
            return
        await socket.accept()
        with self._events.subscribed() as subscription:
            telling = asyncio.create_task(_tell(socket, subscription))
            try:
                while (await socket.receive())["type"] != "websocket.disconnect":
                    pass
            finally:
                telling.cancel()
                with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError, OSError):
                    await telling


async def _tell(socket: WebSocket, subscription: Subscription) -> None:
    lost = 0
    while True:
        event = await subscription.next()
        message = write_event(event)
        await (socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message))
        if subscription.lost > lost:  # the viewer was too slow; what it missed, it can ask for
            lost = subscription.lost
            await socket.send_text('{"type":"missed"}')


def page_routes() -> list[BaseRoute]:
    """Return the routes of the page's own files, which hold nothing secret."""

    def route(path: str, file: Path) -> Route:
        content = file.read_bytes()
        headers = {**SECURITY, "Cache-Control": "no-cache", "ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"'}

        async def endpoint(request: Request) -> Response:
            if request.headers.get("if-none-match") == headers["ETag"]:
                return Response(status_code=304, headers=headers)
            return Response(content, media_type=_TYPES[file.suffix], headers=headers)

        return Route(path, endpoint)

    files = sorted(file for file in PAGE.iterdir() if file.suffix in _TYPES)
    return [route("/", PAGE / "index.html"), *(route(f"/page/{file.name}", file) for file in files)]


def event_json(event: Event) -> dict[str, Any]:
    """Return *event* as JSON, without its picture."""
    if isinstance(event, CameraChanged):
        return {"type": "camera", "camera": event.camera, "connected": event.connected, "since": event.at}
    if isinstance(event, FrameProgress):
        return {
            "type": "progress",
            "camera": event.camera,
            "sequence": event.sequence,
            "bytes": event.used,
            "size": event.size,
            "label": event.label,
            "confidence": event.confidence,
        }
    counts = {"size": event.size, "held": event.held, "received": event.received}
    return {"type": "result", "camera": event.camera, **counts, **_result_json(event.result)}


def write_event(event: Event) -> str | bytes:
    """Return *event* as a message of /v1/watch."""
    text = json.dumps(event_json(event), separators=(",", ":"), allow_nan=False)
    jpeg = None if isinstance(event, CameraChanged) else event.jpeg
    if jpeg is None:
        return text
    content = text.encode()
    return _LENGTH.pack(len(content)) + content + jpeg


def frame_json(one: StoredFrame) -> dict[str, Any]:
    """Return a frame and its answer as JSON; `status` is null while there is none."""
    content = {
        "camera": one.camera,
        "sequence": one.sequence,
        "captured": one.captured,
        "received": one.received,
        "size": one.size,
        "held": one.held,
        "kept": one.file_bytes,
    }
    return content | _result_json(one.result)


def _result_json(result: Result | None) -> dict[str, Any]:
    if result is None:
        return {"status": None, "bytes": 0}
    content = dataclasses.asdict(result)
    del content["stored"]
    return content


def _same_site(connection: HTTPConnection) -> bool:
    """Return whether the request does not come from another site's page, which would bring its visitor's cookie."""
    origin = connection.headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == connection.headers.get("host")
    except ValueError:  # an odd bracket, as in "http://["
        return False


async def _body(request: Request, most: int) -> bytes:
    """Return the body of *request*, or nothing if it is longer than *most* bytes."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > most:
            return b""
    return body


def _form_accepted(request: Request) -> str:
    accepted = [part.partition(";")[0].strip() for part in request.headers.get("accept", "").split(",")]
    return next((form for kind in accepted for form, media in FORMATS.items() if media == kind), "jpeg")


def _number(request: Request, name: str, default: int | None, least: int, most: int) -> int | None:
    """Return the whole number that the query calls *name*."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 18 and least <= int(text) <= most):
        raise Refused(400, f"{name} must be a whole number from {least} to {most}, not {text!r:.40}")
    return int(text)
