"""Header and stream parser, in one portion and in several, and trimming. No bundle is needed.

Input: mode (bit 0: repair checksums; bits 1 to 3: the frame that keeps its own), three splits, size to trim to in units
of 16 bytes, the stream.
"""

from __future__ import annotations

from targets.source import Source
from targets.streams import golden_streams, portions, repaired

from runtime.errors import Incomplete, LimitExceeded, StreamError
from runtime.stream import StreamParser, trim

_EXACT_ID = bytes(range(8))


def one_input(data: bytes) -> None:
    """Parse at once and in portions, which must agree; trim."""
    source = Source(data)
    mode, splits, size = source.number(), source.take(3), 16 * source.number()
    stream = source.rest()
    if mode & 1:
        stream = repaired(stream, _EXACT_ID, 0xFFFF, mode >> 1 & 7)
    at_once, whole = _outcome([stream])
    if splits[:1] > b"\x00":
        assert _outcome(portions(stream, splits))[0] == at_once
    _check(whole, stream)
    try:
        cut = trim(stream, size)
    except (StreamError, LimitExceeded, Incomplete):
        return
    assert len(cut) <= size
    parser = StreamParser()
    parser.feed(cut)
    assert parser.complete and not parser.damaged
    assert whole.body[: whole.verified].startswith(parser.body)


def seeds() -> dict[str, bytes]:
    """Every golden stream as it is, and repaired."""
    made = {}
    for name, stream in golden_streams().items():
        made[f"{name}-raw"] = bytes([0, 0, 0, 0, 255]) + stream
        if len(stream) < 3000:
            made[f"{name}-repaired"] = bytes([15, 40, 90, 200, 4]) + stream
    return made


def _outcome(parts: list[bytes]) -> tuple[object, StreamParser]:
    """Return all that can be seen of a parser, or the kind of its error."""
    parser = StreamParser()
    try:
        for part in parts:
            parser.feed(part)
    except (StreamError, LimitExceeded) as fault:
        return type(fault), parser
    state = (parser.header, parser.head, bytes(parser.body), parser.verified, parser.damaged, parser.bytes_used)
    return (state, parser.received, parser.complete), parser


def _check(parser: StreamParser, stream: bytes) -> None:
    assert 0 <= parser.verified <= len(parser.body) <= len(stream) == parser.received
    assert parser.bytes_verified <= parser.bytes_used <= len(stream)
    header = parser.header
    if header is None:
        assert parser.head is None and not parser.body
        return
    assert len(parser.body) <= header.body_bytes and stream.startswith(header.to_bytes())
    if parser.complete:
        assert trim(stream, len(stream)) == stream[: header.stream_bytes]
