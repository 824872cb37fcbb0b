"""The messages between a camera client and a server: FORMAT.md, part two.

Control messages are JSON objects in text messages, pieces of streams are binary messages:

    client                              server
    Hello(token, camera, exact_id)  →   Welcome(limits) | Fault
    Frame(sequence, deadline)       →   Ack(bytes held)
    Chunk(sequence, offset, data)   →   Ack(bytes held)
    End(sequence)                   →   Enough(sequence), Result(sequence, label, …)
    Clock(sent)                     →   Clock(sent, at)

Instants are seconds on the sender's monotonic clock; what crosses the wire as a promise is a duration. A camera frame
is known by (camera, sequence) for ever, a piece of it by its offset: sending anything twice changes nothing.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import typing
from dataclasses import dataclass
from typing import Any

from runtime.errors import DataError

PROTOCOL = 1
SUBPROTOCOL = "cutoff.1"  # offered and accepted when the WebSocket opens
INGEST_PATH = "/v1/ingest"
NAME_HEADER = "X-Session-Id"  # in which a client may give its camera's name; Ray Serve routes by it, servers ignore it
MAX_TEXT = 16_384  # characters of a control message
MAX_CHUNK = 65_536  # bytes of a stream in one message
MAX_SEQUENCE = 2**53 - 1  # the integers that every JSON reader keeps
MAX_NAME = 64  # characters of a camera's name

_CHUNK = struct.Struct(">BQI")  # kind, sequence, offset
_CHUNK_KIND = 1


class ProtocolError(DataError):
    """The other side sent what the protocol does not know; the connection is of no use any more."""


@dataclass(frozen=True)
class Hello:
    """Client, first: who it is and which bundle its streams need.

    Attributes:
        protocol: version of the protocol, `PROTOCOL`.
        token: the camera's secret.
        camera: its name, 1 to 64 characters of letters, digits, "-", "_" and ".".
        exact_id: of the bundle that encodes, 16 hexadecimal digits.
        sent_s: the client's clock.
        client: name and version of the program, for logs.
    """

    protocol: int
    token: str
    camera: str
    exact_id: str
    sent_s: float
    client: str = ""


@dataclass(frozen=True)
class Welcome:
    """Server, in answer to `Hello`: what it accepts.

    Attributes:
        sent_s: the client's instant, returned.
        at_s: the server's clock.
        frames: camera frames that may be open at a time.
        frame_bytes: longest stream accepted.
    """

    protocol: int
    sent_s: float
    at_s: float
    frames: int
    frame_bytes: int


@dataclass(frozen=True)
class Clock:
    """Client: its clock. Server: the same, with its own. The shortest round trip tells the offset between them."""

    sent_s: float
    at_s: float | None = None


@dataclass(frozen=True)
class Frame:
    """Client: a camera frame begins, or goes on after a connection was lost.

    Attributes:
        sequence: its number, unique for the camera for ever.
        size: bytes of its whole stream.
        at_s: when this was sent, on the *server's* clock as the client knows it; None if it does not.
        deadline_s: seconds from then until the answer is due; None for pictures without a deadline (a spool's).
        captured: when the picture was taken, seconds since 1970, for people to read.
    """

    sequence: int
    size: int
    at_s: float | None
    deadline_s: float | None
    captured: float


@dataclass(frozen=True)
class End:
    """Client: nothing more of this frame will come over this connection; *size* bytes of it were sent in all."""

    sequence: int
    size: int


@dataclass(frozen=True)
class Ack:
    """Server: it holds the first *bytes* bytes of a frame."""

    sequence: int
    bytes: int


@dataclass(frozen=True)
class Enough:
    """Server: further bytes of this frame are of no use to it."""

    sequence: int


@dataclass(frozen=True)
class Result:
    """Server: what it made of a frame.

    Attributes:
        status: "ok"; "preview" if the preview network answered; "missed" if nothing was finished in time; "damaged" if
            the picture is that of the bytes before the damage; "unusable" if too little came for any picture.
        bytes: length of the prefix that the answer rests on.
        steps, steps_total: how far the body was known.
        margin_ms: time left when the answer was finished; None without a deadline.
        stored: the server keeps the frame's bytes: a spool may forget them.
        label, confidence: of the classifier; None without one.
    """

    sequence: int
    status: str
    bytes: int
    steps: float
    steps_total: int
    margin_ms: float | None
    stored: bool
    label: str | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class Fault:
    """Either side: what went wrong. Without *sequence* the connection is closed after it.

    Attributes:
        code: "unauthorized", "wrong_bundle", "version", "malformed", "too_large", "too_many", "busy" or "internal".
        message: for people.
        sequence: the frame concerned; None if it is the connection.
        retry_after_s: when trying again makes sense; None if it does not.
    """

    code: str
    message: str
    sequence: int | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Chunk:
    """Client: *data*, bytes of the stream of frame *sequence* from *offset* on."""

    sequence: int
    offset: int
    data: bytes


STATUSES = ("ok", "preview", "missed", "damaged", "unusable")
FAULT_CODES = ("unauthorized", "wrong_bundle", "version", "malformed", "too_large", "too_many", "busy", "internal")

Control = Hello | Welcome | Clock | Frame | End | Ack | Enough | Result | Fault
Message = Control | Chunk
_KINDS: dict[str, type[Control]] = {kind.__name__.lower(): kind for kind in typing.get_args(Control)}


def write_message(message: Message) -> str | bytes:
    """Return what goes over the wire: text for control messages, bytes for chunks."""
    if isinstance(message, Chunk):
        return _CHUNK.pack(_CHUNK_KIND, message.sequence, message.offset) + message.data
    content = {key: value for key, value in dataclasses.asdict(message).items() if value is not None}
    return json.dumps({"type": type(message).__name__.lower(), **content}, separators=(",", ":"), allow_nan=False)


def read_message(data: str | bytes) -> Message:
    """Return the message that *data* is.

    Keys that are not known are left alone: later revisions may add some.

    Raises:
        ProtocolError: no message, or of an unknown kind, or a value is missing, of the wrong type or out of range.
    """
    return _read_chunk(data) if isinstance(data, bytes) else _read_control(data)


def _read_chunk(data: bytes) -> Chunk:
    if not _CHUNK.size < len(data) <= _CHUNK.size + MAX_CHUNK:
        raise ProtocolError(f"a chunk of {len(data)} bytes; allowed: {_CHUNK.size + 1} to {_CHUNK.size + MAX_CHUNK}")
    kind, sequence, offset = _CHUNK.unpack_from(data)
    if kind != _CHUNK_KIND:
        raise ProtocolError(f"a binary message of kind {kind}; known: {_CHUNK_KIND}")
    if sequence > MAX_SEQUENCE:
        raise ProtocolError(f"sequence {sequence} is above {MAX_SEQUENCE}")
    return Chunk(sequence, offset, data[_CHUNK.size :])


def _read_control(text: str) -> Control:
    if len(text) > MAX_TEXT:
        raise ProtocolError(f"a message of {len(text)} characters; allowed: {MAX_TEXT}")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise ProtocolError("a text message that is not JSON") from fault
    name = content.get("type") if isinstance(content, dict) else None
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ProtocolError(f"a message of no known type; known: {', '.join(_KINDS)}")
    hints = typing.get_type_hints(kind)
    values = {}
    for one in dataclasses.fields(kind):
        if content.get(one.name) is not None:
            values[one.name] = _value(hints[one.name], content[one.name], f"{name}.{one.name}")
        elif one.default is not dataclasses.MISSING or type(None) in typing.get_args(hints[one.name]):
            values[one.name] = None if one.default is dataclasses.MISSING else one.default
        else:
            raise ProtocolError(f"{name}.{one.name} is missing")
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    kinds = typing.get_args(hint) or (hint,)
    if str in kinds and isinstance(value, str):
        return value
    if bool in kinds and isinstance(value, bool):
        return value
    if not isinstance(value, bool):
        # Counts, lengths and sequences are never negative.
        if int in kinds and isinstance(value, int) and 0 <= value <= MAX_SEQUENCE:
            return value
        if float in kinds and isinstance(value, (int, float)) and abs(value) <= MAX_SEQUENCE and math.isfinite(value):
            return float(value)
    raise ProtocolError(f"{where} must be {' or '.join(kind.__name__ for kind in kinds)}, not {value!r:.60}")
