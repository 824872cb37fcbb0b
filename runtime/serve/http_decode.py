"""`POST /v1/decode`: one stream, whole or in chunks, decoded by a deadline; the answer is JSON or a PNG file.

The deadline counts from the request's head. Whatever of the body arrived by then is decoded; nothing is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runtime.errors import CutoffError
from runtime.picture import Image
from runtime.serve.desk import Desk
from runtime.serve.labeller import Label, Outcome
from runtime.serve.settings import LimitSettings
from runtime.serve.tokens import Tokens, bearer

_STATUS = {"ok": 200, "preview": 200, "damaged": 200, "missed": 504, "unusable": 422}
_LEFT_BEHIND_S = 5.0  # after the deadline, for an answer that never comes
_DRAIN_S = 2.0
_PNG_SHARE = 0.5  # of a request's time that is kept for its PNG file at most
_FORGET = 0.9  # of the slowest PNG file, with each that is faster, and with each that was not written
_WHERE = "http"  # the camera by which the desk knows what uploads cost


class Refused(CutoffError):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


@dataclass
class Uploads:
    """What uploads need, and what they hold.

    Attributes:
        open_bytes: of the bodies that are being read.
        open_requests: how many there are.
    """

    desk: Desk
    tokens: Tokens
    limits: LimitSettings
    clock: Callable[[], float]
    open_bytes: int = 0
    open_requests: int = 0
    _png_s: float = 0.0  # what it takes to write a PNG file

    async def answer(self, request: Request) -> Response:
        """Answer a request."""
        try:
            token = bearer(request.headers.get("authorization"))
            if token is None or self.tokens.camera_of(token) is None:
                raise Refused(401, "a camera's token is needed", {"WWW-Authenticate": "Bearer"})
            now = self.clock()
            deadline_s = _deadline_s(request, self.limits.deadline_s)
            due = None if deadline_s is None else now + deadline_s
            self._admit(request, due, now)
            as_png = _wants_png(request)
            upload = _Upload(asyncio.get_running_loop())
            self.open_requests += 1
            try:
                outcome = await self._decode(request, upload, due, as_png)
            finally:
                self.open_requests -= 1
                self.open_bytes -= upload.received
            return await self._response(outcome, upload, due, as_png)
        except Refused as fault:
            return _Last(json.dumps({"error": str(fault)}), fault.status, fault.headers, "application/json")

    def _admit(self, request: Request, due: float | None, now: float) -> None:
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.limits.frame_bytes:
            raise Refused(413, f"a stream of {length:.20} bytes; allowed: {self.limits.frame_bytes}")
        if self.open_requests >= self.limits.frames or self.open_bytes >= self.limits.memory_bytes:
            raise Refused(429, "too many uploads at a time", {"Retry-After": "1"})
        too_much = self.desk.overload_s(_WHERE, due)
        if too_much > 0 and due is not None and due > now:
            wait_s = str(max(1, math.ceil(too_much)))
            raise Refused(429, "too many frames to answer all of them in time", {"Retry-After": wait_s})

    async def _decode(self, request: Request, upload: _Upload, due: float | None, as_png: bool) -> Outcome:
        """Feed the body to the desk as it comes, and return what came of it."""
        ticket = self.desk.open(_WHERE, self._picture_due(due) if as_png else due, upload)
        reading = asyncio.create_task(self._read(request, upload, lambda data: self.desk.feed(ticket, data)))
        patience_s = self.limits.upload_s if due is None else max(0.0, due - self.clock()) + _LEFT_BEHIND_S
        either: set[asyncio.Future[Any]] = {reading, upload.outcome}
        try:
            await asyncio.wait(either, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
            elif not upload.outcome.done() and due is None:
                raise Refused(408, f"the upload took longer than {self.limits.upload_s:g} s")
            self.desk.close(ticket)
            outcome = await asyncio.wait_for(upload.outcome, patience_s)
        except (TimeoutError, asyncio.TimeoutError):
            raise Refused(503, "no answer was made", {"Retry-After": "1"}) from None
        except ClientDisconnect:
            raise Refused(400, "the client has gone") from None
        finally:
            self.desk.drop(ticket)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, ClientDisconnect, Refused):
                await reading
        self.desk.note_cost(_WHERE, outcome.seconds)
        return outcome

    def _picture_due(self, due: float | None) -> float | None:
        """Return by when a picture must be there whose PNG file is to be there by *due*."""
        if due is None:
            return None
        return due - min(self._png_s, _PNG_SHARE * max(0.0, due - self.clock()))

    async def _read(self, request: Request, upload: _Upload, feed: Callable[[bytes], None]) -> None:
        async for data in request.stream():
            upload.received += len(data)
            self.open_bytes += len(data)
            if upload.received > self.limits.frame_bytes:
                raise Refused(413, f"more than {self.limits.frame_bytes} bytes")
            if self.open_bytes > self.limits.memory_bytes:
                raise Refused(429, "uploads fill the memory set aside for them", {"Retry-After": "1"})
            if data:
                feed(data)
        upload.whole = True

    async def _response(self, outcome: Outcome, upload: _Upload, due: float | None, as_png: bool) -> Response:
        png = None
        if as_png:
            began = self.clock()
            image = None if outcome.picture is None else outcome.picture.image
            png = None if image is None else await asyncio.to_thread(_png, image)
            self._png_s = max(_FORGET * self._png_s, 0.0 if png is None else self.clock() - began)
        facts = _facts(outcome, upload.received, None if due is None else due - self.clock())
        kind = Response if upload.whole else _Last
        if png is None:
            return kind(json.dumps(facts), _STATUS[outcome.status], media_type="application/json")
        return kind(png, _STATUS[outcome.status], _headers(facts), "image/png")


class _Upload:
    """A body that is being read, and the answer to it once the desk has one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.outcome: asyncio.Future[Outcome] = loop.create_future()
        self.received = 0
        self.whole = False

    def finishing(self) -> None:
        """See `runtime.serve.labeller.Listener`."""

    def looked(self, image: Image, label: Label | None, size: int) -> None:
        """See `runtime.serve.labeller.Listener`."""

    def enough(self) -> None:
        """See `runtime.serve.labeller.Listener`."""

    def answered(self, outcome: Outcome) -> None:
        """See `runtime.serve.labeller.Listener`."""
        self._loop.call_soon_threadsafe(self._set, outcome)

    def _set(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class _Last(Response):
    """An answer that comes before the request's body has.

    The connection ends with it. What still arrives is read for a moment and thrown away: closing a connection with
    unread bytes in it would take the answer back.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(_drain(receive), _DRAIN_S)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive) -> None:
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        pass


def _deadline_s(request: Request, longest_s: float) -> float | None:
    text = request.query_params.get("deadline_ms")
    if text is None:
        return None
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds <= 1000 * longest_s:
        raise Refused(400, f"deadline_ms must be above 0 and at most {1000 * longest_s:g}, not {text!r:.40}")
    return milliseconds / 1000


def _wants_png(request: Request) -> bool:
    """Return whether the answer is a picture, by the header Accept; JSON where it says nothing of either."""
    accepted = [part.partition(";")[0].strip() for part in request.headers.get("accept", "").split(",")]
    for one in accepted:
        if one in ("image/png", "image/*"):
            return True
        if one in ("application/json", "*/*"):
            return False
    return False


def _facts(outcome: Outcome, received: int, left_s: float | None) -> dict[str, Any]:
    picture, label = outcome.picture, outcome.label
    image = None if picture is None else picture.image
    return {
        "status": outcome.status,
        "received": received,
        "bytes": 0 if picture is None or image is None else picture.bytes_used,
        "bytes_verified": 0 if picture is None else picture.bytes_verified,
        "bytes_total": None if picture is None else picture.bytes_total,
        "width": None if image is None else image.shape[1],
        "height": None if image is None else image.shape[0],
        "steps": 0.0 if picture is None else picture.steps,
        "steps_total": 0 if picture is None else picture.steps_total,
        "complete": picture is not None and picture.complete,
        "skipped": [] if picture is None else list(picture.skipped),
        "margin_ms": None if left_s is None else 1000 * left_s,
        "label": None if label is None else label.name,
        "confidence": None if label is None else label.confidence,
        "message": outcome.message or None,
    }


def _headers(facts: dict[str, Any]) -> dict[str, str]:
    """Return what the answer's headers say of a picture."""
    names = ("status", "bytes", "steps", "steps_total", "margin_ms", "confidence")
    known = {f"Cutoff-{name.replace('_', '-').title()}": facts[name] for name in names if facts[name] is not None}
    return {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in known.items()}


def _png(image: Image) -> bytes:
    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
