"""The stream format: header, parser, trimming. Networks and tables appear only where a trimmed stream is decoded."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from itertools import pairwise
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import Codec, Limits, trim
from runtime.errors import Incomplete, LimitExceeded, StreamError
from runtime.stream import (
    FRAME_BYTES,
    HEADER_BYTES,
    Header,
    StreamParser,
    framed_bytes,
    prefix_bytes,
    write_stream,
)

EXAMPLE = Header(bytes(range(8)), width=640, height=480, grey=False, trimmed=False, head_bytes=12, body_bytes=5000)

headers = st.builds(
    Header,
    exact_id=st.binary(min_size=8, max_size=8),
    width=st.integers(1, 65_535),
    height=st.integers(1, 1024),
    grey=st.booleans(),
    trimmed=st.just(True),
    head_bytes=st.integers(0, 1 << 20).map(lambda words: 4 * words),
    body_bytes=st.integers(0, 1 << 28),
)


def made(head_bytes: int = 12, body_bytes: int = 5000, *, trimmed: bool = False) -> bytes:
    """Return a stream of bytes that mean nothing."""
    header = dataclasses.replace(EXAMPLE, head_bytes=head_bytes, body_bytes=body_bytes, trimmed=trimmed)
    head, body = (bytes((7 * i + i // 256) % 256 for i in range(size)) for size in (head_bytes, body_bytes))
    return write_stream(header, head, body)


def state_of(parser: StreamParser) -> tuple[object, ...]:
    return (
        parser.header,
        parser.head,
        bytes(parser.body),
        parser.verified,
        parser.damaged,
        parser.received,
        parser.complete,
        parser.bytes_verified,
        parser.bytes_used,
    )


def parsed(data: bytes) -> StreamParser:
    parser = StreamParser()
    parser.feed(data)
    return parser


# Header.


def test_header_has_the_bytes_of_the_format() -> None:
    """Fields stand where FORMAT.md says, big-endian, behind them their CRC-32."""
    fields = bytes.fromhex("89435554 01 00 0001020304050607 0280 01e0 0000000c 00001388")
    assert EXAMPLE.to_bytes() == fields + struct.pack(">I", zlib.crc32(fields))
    assert len(EXAMPLE.to_bytes()) == HEADER_BYTES == 30
    flags = {
        (grey, trimmed): dataclasses.replace(EXAMPLE, grey=grey, trimmed=trimmed).to_bytes()[5]
        for grey in (False, True)
        for trimmed in (False, True)
    }
    assert flags == {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}


@given(headers)
def test_header_comes_back(header: Header) -> None:
    """What was written is what is read."""
    assert Header.from_bytes(header.to_bytes(), Limits()) == header


@given(headers, st.integers(0, 8 * HEADER_BYTES - 1))
def test_any_flipped_bit_of_the_header_is_noticed(header: Header, bit: int) -> None:
    """No single bit of a header can change unseen."""
    data = bytearray(header.to_bytes())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StreamError):
        Header.from_bytes(bytes(data), Limits())


def test_other_magic_is_refused() -> None:
    """What is no stream is told from the first bytes, which the error shows."""
    with pytest.raises(StreamError, match="not a cutoff stream: it begins with 89 50 4e 47"):
        parsed(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("data", [b"\x88", b"\x89D", b"\x89CUt"])
def test_other_magic_is_refused_before_the_header_is_there(data: bytes) -> None:
    """The first wrong byte is enough."""
    with pytest.raises(StreamError, match="not a cutoff stream"):
        parsed(data)


def test_unknown_version_is_refused(make_golden: ModuleType) -> None:
    """A later version is named, whatever the rest looks like there."""
    with pytest.raises(StreamError, match="stream version 2 is unknown; this decoder reads version 1"):
        parsed(make_golden.changed_header(made(), version=2))
    with pytest.raises(StreamError, match="version 255"):
        parsed(b"\x89CUT\xff" + bytes(40))


def test_wrong_header_checksum_is_refused() -> None:
    """The error shows both checksums."""
    data = made()
    with pytest.raises(StreamError, match=r"damaged header: checksum [0-9a-f]{8}, computed [0-9a-f]{8}"):
        parsed(data[:7] + b"\xee" + data[8:])


@pytest.mark.parametrize("bit", range(2, 8))
def test_reserved_flag_is_refused(make_golden: ModuleType, bit: int) -> None:
    """Reserved bits mean that a decoder of this version cannot read the stream."""
    with pytest.raises(StreamError, match="reserved bits"):
        parsed(make_golden.changed_header(made(), flags=1 << bit))


@pytest.mark.parametrize("field", ["width", "height"])
def test_size_of_zero_is_refused(make_golden: ModuleType, field: str) -> None:
    """A picture has at least one pixel."""
    with pytest.raises(StreamError, match="both must be at least 1"):
        parsed(make_golden.changed_header(made(), **{field: 0}))


def test_head_segment_of_partial_words_is_refused(make_golden: ModuleType) -> None:
    """A head segment is whole words."""
    with pytest.raises(StreamError, match="head segment is 13 bytes long"):
        parsed(make_golden.changed_header(made(), head_bytes=13))


def test_body_of_partial_words_is_refused_unless_trimmed(make_golden: ModuleType) -> None:
    """Only a trimmed body may end inside a word."""
    with pytest.raises(StreamError, match="body is 4999 bytes long"):
        parsed(make_golden.changed_header(made(), body_bytes=4999))
    assert parsed(make_golden.changed_header(made(), body_bytes=4999, flags=2)).header is not None


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(pixels=640 * 480 - 1), "640x480 = 307200 pixels; allowed: 307199"),
        (Limits(head_bytes=11), "head segment is 12 bytes long; allowed: 11"),
        (Limits(body_bytes=4999), "body is 5000 bytes long; allowed: 4999"),
    ],
)
def test_claim_above_a_limit_is_refused(limits: Limits, message: str) -> None:
    """The error names claim and limit; a claim that just reaches the limits passes."""
    with pytest.raises(LimitExceeded, match=message):
        Header.from_bytes(EXAMPLE.to_bytes(), limits)
    Header.from_bytes(EXAMPLE.to_bytes(), Limits(pixels=640 * 480, head_bytes=12, body_bytes=5000))


def test_largest_size_claim_is_refused_by_default(make_golden: ModuleType) -> None:
    """65,535 x 65,535 is no picture that anyone meant."""
    with pytest.raises(LimitExceeded, match="4294836225 pixels"):
        parsed(make_golden.changed_header(made(), width=65_535, height=65_535)[:HEADER_BYTES])


# Lengths.


@given(st.integers(0, 20_000))
def test_framed_bytes_counts_one_checksum_per_begun_frame(body_bytes: int) -> None:
    """Frames of 2,048 bytes, each with four more."""
    frames = len(range(0, body_bytes, FRAME_BYTES))
    assert framed_bytes(body_bytes) == body_bytes + 4 * frames
    assert len(made(0, body_bytes, trimmed=True)) == HEADER_BYTES + 4 + framed_bytes(body_bytes)


@given(st.integers(0, 3 * FRAME_BYTES))
def test_prefix_bytes_is_the_shortest_prefix_with_those_bytes(body_bytes: int) -> None:
    """One byte less holds one byte of the body less."""
    stream = made(8, 4 * FRAME_BYTES)
    header = parsed(stream).header
    assert header is not None
    shortest = header.body_start + prefix_bytes(body_bytes)
    assert len(parsed(stream[:shortest]).body) == body_bytes
    assert body_bytes == 0 or len(parsed(stream[: shortest - 1]).body) == body_bytes - 1


def test_stream_has_the_length_that_its_header_says() -> None:
    """`stream_bytes` is known from the header alone."""
    for body_bytes in (0, 4, FRAME_BYTES - 4, FRAME_BYTES, FRAME_BYTES + 4, 2 * FRAME_BYTES):
        stream = made(12, body_bytes)
        header = parsed(stream).header
        assert header is not None and header.stream_bytes == len(stream)


def test_header_and_framing_stay_small(stream: bytes) -> None:
    """All that is neither head nor body takes at most 64 bytes and 0.3 % of the stream."""
    header = parsed(stream).header
    assert header is not None
    overhead = len(stream) - header.head_bytes - header.body_bytes
    assert overhead <= 64 + 0.003 * len(stream)


# Parser.


@given(
    st.sampled_from([0, 12, 400]),
    st.sampled_from([0, 4, 100, 2044, 2048, 2052, 4096, 5000]),
    st.lists(st.integers(0, 5500), max_size=8),
    st.integers(-1, 5500),
)
def test_any_split_gives_the_same_state(head_bytes: int, body_bytes: int, cuts: list[int], damage: int) -> None:
    """After every portion the state is that of all bytes so far at once, damage in the body included."""
    stream = bytearray(made(head_bytes, body_bytes))
    start = HEADER_BYTES + head_bytes + 4
    if start <= damage < len(stream):
        stream[damage] ^= 0x10
    data = bytes(stream)
    parser = StreamParser()
    for begin, end in pairwise([0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]):
        parser.feed(data[begin:end])
        assert state_of(parser) == state_of(parsed(data[:end]))
    assert parser.complete == (bytes(stream) == made(head_bytes, body_bytes))


def test_byte_by_byte_gives_the_same_state_at_every_byte() -> None:
    """A prefix is a state: header, head, body and what is verified are known at the earliest byte."""
    stream = made(12, 2100)
    parser = StreamParser()
    start = HEADER_BYTES + 12 + 4
    for size in range(1, len(stream) + 1):
        parser.feed(stream[size - 1 : size])
        assert (parser.header is not None) == (size >= HEADER_BYTES)
        assert (parser.head is not None) == (size >= start)
        assert parser.verified == (0 if size < start + 2052 else 2048 if size < len(stream) else 2100)
        assert parser.bytes_verified <= parser.bytes_used <= size == parser.received
        assert size - parser.bytes_used <= 3 or size < start
    assert parser.complete


def test_bytes_behind_the_stream_are_not_its_own() -> None:
    """What follows a whole stream is counted and otherwise left alone, in one portion or later."""
    stream = made(12, 2100)
    for parser in (parsed(stream + b"more"), parsed(stream)):
        parser.feed(b"and more")
        assert parser.complete and not parser.damaged
        assert parser.bytes_used == len(stream) < parser.received
        assert len(parser.body) == 2100


@pytest.mark.parametrize("damage", [None, 500])
def test_parser_keeps_nothing_that_it_will_not_use(damage: int | None) -> None:
    """Behind the end or the damage of a stream any amount may follow without taking memory."""
    stream = bytearray(made(12, 2100))
    if damage is not None:
        stream[damage] ^= 1
    parser = parsed(bytes(stream))
    for _ in range(3):
        parser.feed(bytes(100_000))
        assert len(parser._pending) + len(parser.body) <= 2100


@pytest.mark.parametrize("position", [0, 11, 12, 15])
def test_damaged_head_segment_is_refused(position: int) -> None:
    """A wrong bit in the head segment or its checksum is an error, again at every further byte."""
    stream = bytearray(made(12, 100))
    stream[HEADER_BYTES + position] ^= 1
    parser = StreamParser()
    for portion in (bytes(stream), b"x"):
        with pytest.raises(StreamError, match="damaged head segment: checksum"):
            parser.feed(portion)


@pytest.mark.parametrize(("position", "good"), [(0, 0), (2047, 0), (2050, 0), (2052, 2048), (4103, 2048), (4999, 4096)])
def test_damaged_frame_ends_the_body_at_its_start(position: int, good: int) -> None:
    """What lies before the frame is kept, what lies in it or behind it is not, however much comes."""
    stream = bytearray(made(12, 5000))
    stream[HEADER_BYTES + 16 + position] ^= 0x80
    parser = parsed(bytes(stream) + b"rest")
    assert parser.damaged and not parser.complete
    assert len(parser.body) == parser.verified == good
    assert parser.bytes_used == HEADER_BYTES + 16 + framed_bytes(good)


# Trimming.


@given(st.sampled_from([0, 4, 2048, 2052, 5000]), st.integers(0, 5200))
def test_trimmed_stream_is_valid_and_no_longer_than_asked(body_bytes: int, size: int) -> None:
    """A trimmed stream fits, holds the body's beginning, and says that it was cut; trimming again changes nothing."""
    stream = made(12, body_bytes)
    start = HEADER_BYTES + 16
    if size < start:
        with pytest.raises(Incomplete, match=f"{size} bytes cannot hold header and head segment, which take {start}"):
            trim(stream, size)
        return
    cut = trim(stream, size)
    assert len(cut) <= size
    parser, whole = parsed(cut), parsed(stream)
    assert parser.complete and parser.head == whole.head and parser.header is not None
    assert whole.body.startswith(parser.body)
    assert parser.header.trimmed == (len(parser.body) < body_bytes)
    assert len(parser.body) == body_bytes or size - len(cut) <= 4  # no more is wasted than one more checksum
    assert trim(cut, size) == cut


@given(st.integers(46, 5200), st.integers(46, 5200))
def test_trimming_twice_is_trimming_to_the_smaller_size(first: int, second: int) -> None:
    """A store may shrink a stream step by step and lose nothing by it."""
    stream = made(12, 5000)
    assert trim(trim(stream, first), second) == trim(stream, min(first, second))


def test_trimming_to_its_own_size_or_more_changes_nothing() -> None:
    """A stream that fits stays as it is."""
    stream = made(12, 5000)
    assert trim(stream, len(stream)) == trim(stream, 1 << 30) == stream


@pytest.mark.parametrize(("extra", "kept"), [(0, 0), (2051, 0), (2052, 2048), (2052 + 777, 2048), (4104, 4096)])
def test_prefix_is_trimmed_to_what_is_verified(extra: int, kept: int) -> None:
    """What arrived of a stream becomes a stream; bytes whose checksum has not come get none from us."""
    prefix = made(12, 5000)[: HEADER_BYTES + 16 + extra]
    cut = parsed(trim(prefix, 1 << 20))
    assert cut.complete and len(cut.body) == kept and cut.header is not None and cut.header.trimmed


@given(st.integers(0, 5012), st.integers(46, 5200), st.integers(0, 8 * 5012 - 1))
def test_trimming_verifies_nothing_that_was_not(extra: int, size: int, bit: int) -> None:
    """Of a prefix with a flipped bit, trimming either finds the damage or keeps none of it."""
    stream = bytearray(made(12, 5000))
    stream[HEADER_BYTES + 16 + bit // 8] ^= 1 << bit % 8
    try:
        cut = parsed(trim(bytes(stream[: HEADER_BYTES + 16 + extra]), size))
    except StreamError:
        return
    assert parsed(made(12, 5000)).body.startswith(cut.body)


@pytest.mark.parametrize("length", [0, 20, HEADER_BYTES, HEADER_BYTES + 15])
def test_prefix_without_its_head_segment_cannot_be_trimmed(length: int) -> None:
    """Before the head segment ends there is nothing to keep."""
    with pytest.raises(Incomplete, match="ends inside its head segment"):
        trim(made(12, 5000)[:length], 1000)


@pytest.mark.parametrize("position", [10, 5000])
def test_damaged_stream_is_not_trimmed(position: int) -> None:
    """Damage is not given a new checksum, be it before the cut or behind it."""
    stream = bytearray(made(12, 5000))
    stream[HEADER_BYTES + 16 + position] ^= 1
    with pytest.raises(StreamError, match="damaged body"):
        trim(bytes(stream), 3000)


def test_trimming_minds_the_limits() -> None:
    """Limits hold for whoever handles a stream."""
    with pytest.raises(LimitExceeded):
        trim(made(12, 5000), 3000, Limits(body_bytes=4000))


@given(st.integers(0, 7000))
@settings(max_examples=40)
def test_trimmed_stream_decodes_like_the_prefix(
    tiny_codec: Codec, frames_stream: bytes, make_golden: ModuleType, extra: int
) -> None:
    """A trimmed stream determines just the trits that a prefix with as many bytes of the body does."""
    header = parsed(frames_stream).header
    assert header is not None
    size = header.body_start + extra
    cut = trim(frames_stream, size)
    kept = len(parsed(cut).body)
    prefix = frames_stream[: header.body_start + prefix_bytes(kept)]
    assert make_golden.trits_known(tiny_codec, cut) == make_golden.trits_known(tiny_codec, prefix)


@pytest.fixture(scope="module")
def frames_stream(make_golden: ModuleType) -> bytes:
    """A golden stream of four frames."""
    return bytes((make_golden.HERE / "valid" / "frames.cut").read_bytes())


def test_trimmed_stream_gives_the_same_picture_as_the_prefix(tiny_codec: Codec, frames_stream: bytes) -> None:
    """Not only the trits: picture and progress are the same; the stream says that it is complete, the picture not."""
    cut = trim(frames_stream, 3000)
    header = parsed(frames_stream).header
    assert header is not None
    prefix = frames_stream[: header.body_start + prefix_bytes(len(parsed(cut).body))]
    one, other = tiny_codec.decode(cut), tiny_codec.decode(prefix)
    assert one.image is not None and other.image is not None
    assert (one.image == other.image).all() and one.steps == other.steps
    assert one.bytes_verified == one.bytes_total == len(cut) and not one.complete
