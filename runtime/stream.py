"""The stream: header, head segment, body in frames with checksums; parsed from bytes in any portions.

    encoder:  Header + head + body -> `write_stream` -> bytes
    decoder:  bytes -> `StreamParser.feed` -> header, head, body as far as it arrived, verified or not yet

A prefix is a state, not damage. FORMAT.md is the definition; this file knows nothing of networks or tables.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from dataclasses import dataclass

from runtime.errors import Incomplete, LimitExceeded, StreamError

MAGIC = b"\x89CUT"
VERSION = 1
WORD_BYTES = 4  # range codes are sequences of words; only a trimmed body may end inside one
FRAME_BYTES = 2048  # body bytes that share a checksum
_HEADER = struct.Struct(">4sBB8sHHII")  # magic, version, flags, exact_id, width, height, head bytes, body bytes
_CRC = struct.Struct(">I")
HEADER_BYTES = _HEADER.size + _CRC.size
_GREY, _TRIMMED = 1, 2


@dataclass(frozen=True)
class Limits:
    """What one stream may cost.

    Attributes:
        pixels, head_bytes, body_bytes: what a header may claim; checked before anything is allocated.
        seconds: time that a decoder works on the stream, waiting for bytes not counted; `math.inf` for no limit.
    """

    pixels: int = 1 << 26
    head_bytes: int = 1 << 22
    body_bytes: int = 1 << 28
    seconds: float = 60.0


@dataclass(frozen=True)
class Header:
    """What a stream says of itself.

    Attributes:
        exact_id: 8 bytes; the exact graphs and tables that the stream was made with.
        width, height: of the picture in pixels, 1 to 65,535.
        grey: the picture has one channel.
        trimmed: the body was cut; its last words are not as the encoder ended them.
        head_bytes: length of the head segment, its checksum not counted.
        body_bytes: length of the body's range code, checksums not counted.
    """

    exact_id: bytes
    width: int
    height: int
    grey: bool
    trimmed: bool
    head_bytes: int
    body_bytes: int

    def to_bytes(self) -> bytes:
        """Return the header as it stands in a stream."""
        flags = _GREY * self.grey | _TRIMMED * self.trimmed
        fields = _HEADER.pack(
            MAGIC, VERSION, flags, self.exact_id, self.width, self.height, self.head_bytes, self.body_bytes
        )
        return fields + _CRC.pack(zlib.crc32(fields))

    @classmethod
    def from_bytes(cls, data: bytes, limits: Limits) -> Header:
        """Read the first HEADER_BYTES of *data*.

        Raises:
            StreamError: no stream, an unknown version, a wrong checksum or a forbidden value.
            LimitExceeded: a claim above *limits*.
        """
        magic, version, flags, exact_id, width, height, head_bytes, body_bytes = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise StreamError(f"not a cutoff stream: it begins with {magic.hex(' ')}, not {MAGIC.hex(' ')}")
        if version != VERSION:
            raise StreamError(f"stream version {version} is unknown; this decoder reads version {VERSION}")
        (found,) = _CRC.unpack_from(data, _HEADER.size)
        computed = zlib.crc32(data[: _HEADER.size])
        if found != computed:
            raise StreamError(f"damaged header: checksum {found:08x}, computed {computed:08x}")
        if flags & ~(_GREY | _TRIMMED):
            raise StreamError(f"header flags {flags:#04x} have reserved bits set")
        if width == 0 or height == 0:
            raise StreamError(f"the picture is {width}x{height}; both must be at least 1")
        if head_bytes % WORD_BYTES:
            raise StreamError(f"the head segment is {head_bytes} bytes long, which is no multiple of {WORD_BYTES}")
        if body_bytes % WORD_BYTES and not flags & _TRIMMED:
            raise StreamError(f"the body is {body_bytes} bytes long, which is no multiple of {WORD_BYTES}")
        if width * height > limits.pixels:
            raise LimitExceeded(f"the picture is {width}x{height} = {width * height} pixels; allowed: {limits.pixels}")
        if head_bytes > limits.head_bytes:
            raise LimitExceeded(f"the head segment is {head_bytes} bytes long; allowed: {limits.head_bytes}")
        if body_bytes > limits.body_bytes:
            raise LimitExceeded(f"the body is {body_bytes} bytes long; allowed: {limits.body_bytes}")
        return cls(exact_id, width, height, bool(flags & _GREY), bool(flags & _TRIMMED), head_bytes, body_bytes)

    @property
    def body_start(self) -> int:
        """Offset of the first frame in the stream."""
        return HEADER_BYTES + self.head_bytes + _CRC.size

    @property
    def stream_bytes(self) -> int:
        """Length of the whole stream."""
        return self.body_start + framed_bytes(self.body_bytes)


def framed_bytes(body_bytes: int) -> int:
    """Return the length of a body of *body_bytes* with its checksums."""
    return body_bytes + _CRC.size * -(-body_bytes // FRAME_BYTES)


def prefix_bytes(body_bytes: int) -> int:
    """Return the length of the shortest part of a framed body that holds the first *body_bytes*."""
    return body_bytes + _CRC.size * (max(0, body_bytes - 1) // FRAME_BYTES)


def write_stream(header: Header, head: bytes, body: bytes) -> bytes:
    """Return the stream of *header* (whose lengths must be those of *head* and *body*)."""
    assert header.head_bytes == len(head) and header.body_bytes == len(body)
    parts = [header.to_bytes(), head, _CRC.pack(zlib.crc32(head))]
    for start in range(0, len(body), FRAME_BYTES):
        frame = body[start : start + FRAME_BYTES]
        parts += [frame, _CRC.pack(zlib.crc32(frame))]
    return b"".join(parts)


def trim(stream: bytes, size_bytes: int, limits: Limits = Limits()) -> bytes:
    """Return a valid stream of at most *size_bytes* that decodes like a prefix of *stream*; nothing is decoded.

    Only verified bytes are kept: those of an open frame, whose checksum has not come, must not get a right one.

    Raises:
        Incomplete: *size_bytes*, or *stream* itself, ends before the head segment does.
        StreamError: *stream* is damaged, before or behind the cut.
    """
    parser = StreamParser(limits)
    parser.feed(stream)
    header = parser.header
    if header is None or parser.head is None:
        raise Incomplete(f"the stream ends inside its head segment: it has {len(stream)} bytes")
    if parser.damaged:
        raise StreamError(f"damaged body: the checksum of the frame at body byte {len(parser.body)} is wrong")
    if size_bytes < header.body_start:
        raise Incomplete(f"{size_bytes} bytes cannot hold header and head segment, which take {header.body_start}")
    kept = parser.verified
    if header.body_start + framed_bytes(kept) > size_bytes:
        frames, rest = divmod(size_bytes - header.body_start, FRAME_BYTES + _CRC.size)
        kept = min(kept, frames * FRAME_BYTES + max(0, rest - _CRC.size))
    trimmed = header.trimmed or kept < header.body_bytes
    return write_stream(
        dataclasses.replace(header, body_bytes=kept, trimmed=trimmed), parser.head, bytes(parser.body[:kept])
    )


class StreamParser:
    """Takes the bytes of one stream in any portions; the same bytes give the same state, however they are split.

    Attributes:
        header: as soon as its bytes are there.
        head: the head segment, verified, as soon as all of it is there.
        body: range code so far; bytes of an unfinished frame are included, those of a damaged frame and after are not.
        verified: how many bytes of `body` lie in frames whose checksum was right.
        damaged: a frame's checksum was wrong: `body` ends at that frame's start and stays so.
        received: all bytes fed, of this stream or beyond.
    """

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._pending = bytearray()
        self.header: Header | None = None
        self.head: bytes | None = None
        self.body = bytearray()
        self.verified = 0
        self.damaged = False
        self.received = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            StreamError, LimitExceeded: see `Header.from_bytes`; also when the head segment's checksum is wrong.
        """
        self._pending += data
        self.received += len(data)
        if self.header is None:
            self._take_header()
        if self.header is not None and self.head is None:
            self._take_head(self.header)
        if self.header is not None and self.head is not None:
            self._take_body(self.header)

    @property
    def complete(self) -> bool:
        """True if every frame is there and verified."""
        return self.header is not None and self.head is not None and self.verified == self.header.body_bytes

    @property
    def bytes_verified(self) -> int:
        """Bytes of the stream, from its start, whose checksums were right."""
        if self.header is None:
            return 0
        return HEADER_BYTES if self.head is None else self.header.body_start + framed_bytes(self.verified)

    @property
    def bytes_used(self) -> int:
        """Bytes of the stream, from its start, that the state rests on: verified ones and those of an open frame."""
        return self.bytes_verified + max(0, len(self.body) - self.verified)

    def _take_header(self) -> None:
        beginning = bytes(self._pending[: len(MAGIC)])
        if not MAGIC.startswith(beginning):
            raise StreamError(f"not a cutoff stream: it begins with {beginning.hex(' ')}, not {MAGIC.hex(' ')}")
        if len(self._pending) >= HEADER_BYTES:
            self.header = Header.from_bytes(bytes(self._pending[:HEADER_BYTES]), self._limits)
            del self._pending[:HEADER_BYTES]

    def _take_head(self, header: Header) -> None:
        size = header.head_bytes
        if len(self._pending) < size + _CRC.size:
            return
        head = bytes(self._pending[:size])
        (found,) = _CRC.unpack_from(self._pending, size)
        if found != zlib.crc32(head):
            raise StreamError(f"damaged head segment: checksum {found:08x}, computed {zlib.crc32(head):08x}")
        self.head = head
        del self._pending[: size + _CRC.size]

    def _take_body(self, header: Header) -> None:
        position = 0  # in _pending; an open frame's bytes stay there until its checksum has come
        del self.body[self.verified :]
        while not self.damaged and self.verified < header.body_bytes:
            size = min(FRAME_BYTES, header.body_bytes - self.verified)
            frame = self._pending[position : position + size]
            if len(self._pending) < position + size + _CRC.size:
                self.body += frame
                break
            (found,) = _CRC.unpack_from(self._pending, position + size)
            if found != zlib.crc32(frame):
                self.damaged = True
                break
            self.body += frame
            self.verified += size
            position += size + _CRC.size
        del self._pending[:position]
        if self.damaged or self.verified == header.body_bytes:
            self._pending.clear()
