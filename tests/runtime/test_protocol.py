"""Messages between client and server: what is written is read, and nothing else."""

import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.protocol import (
    MAX_CHUNK,
    MAX_SEQUENCE,
    MAX_TEXT,
    Ack,
    Chunk,
    Clock,
    End,
    Enough,
    Fault,
    Frame,
    Hello,
    ProtocolError,
    Result,
    Welcome,
    read_message,
    write_message,
)

MESSAGES = [
    Hello(1, "secret", "gate", "0123456789abcdef", 12.5, "cutoff 0.1.0"),
    Welcome(1, 12.5, 99.25, 16, 4_000_000),
    Clock(1.0),
    Clock(1.0, 2.0),
    Frame(7, 12_000, 99.5, 0.5, 1.7e9),
    Frame(7, 12_000, None, None, 1.7e9),
    End(7, 4096),
    Ack(7, 2048),
    Enough(7),
    Result(7, "ok", 4096, 2.5, 9, 12.25, True, "goldfish", 0.875),
    Result(7, "missed", 0, 0.0, 0, None, False),
    Fault("busy", "too many frames", retry_after_s=2.0),
    Fault("too_large", "stream of 5,000,000 bytes", sequence=7),
    Chunk(MAX_SEQUENCE, 4096, b"\0\1\2"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_written_is_read(message):
    """Every kind of message comes back as it was, with and without what may be left out."""
    assert read_message(write_message(message)) == message


@given(st.integers(0, MAX_SEQUENCE), st.integers(0, 2**32 - 1), st.binary(min_size=1, max_size=300))
def test_chunks_of_any_content(sequence, offset, data):
    """A chunk comes back as it was, whatever its bytes."""
    chunk = Chunk(sequence, offset, data)
    assert read_message(write_message(chunk)) == chunk


def test_a_chunk_costs_thirteen_bytes_besides_its_data():
    """Its kind, sequence and offset, and nothing else."""
    assert len(write_message(Chunk(1, 2, b"abc"))) == 13 + 3


def test_keys_of_later_revisions_are_left_alone():
    """A message with a key that nobody knows is read as if it were not there."""
    assert read_message('{"type":"ack","sequence":1,"bytes":2,"colour":"red"}') == Ack(1, 2)


def test_integers_are_accepted_where_a_duration_is_asked_for():
    """JSON of other languages writes 3.0 as 3."""
    assert read_message('{"type":"clock","sent_s":3}') == Clock(3.0)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("", "not JSON"),
        ("[" * 5_000, "not JSON"),
        ("[1]", "no known type"),
        ('{"type":["ack"]}', "no known type"),
        ('{"type":"chunk","sequence":1,"offset":0,"data":""}', "no known type"),
        ('{"type":"ack","sequence":1}', "ack.bytes is missing"),
        ('{"type":"ack","sequence":-1,"bytes":2}', "ack.sequence must be int"),
        ('{"type":"ack","sequence":true,"bytes":2}', "ack.sequence must be int"),
        ('{"type":"ack","sequence":1.0,"bytes":2}', "ack.sequence must be int"),
        ('{"type":"ack","sequence":9007199254740992,"bytes":2}', "ack.sequence must be int"),
        ('{"type":"clock","sent_s":NaN}', "clock.sent_s must be float"),
        ('{"type":"clock","sent_s":1e999}', "clock.sent_s must be float"),
        ('{"type":"clock","sent_s":' + "9" * 400 + "}", "clock.sent_s must be float"),
        ('{"type":"hello","protocol":1,"token":3,"camera":"a","exact_id":"b","sent_s":1}', "hello.token must be str"),
        (json.dumps({"type": "enough", "sequence": 1, "pad": "x" * MAX_TEXT}), "allowed: 16384"),
        (b"", "chunk of 0 bytes"),
        (b"\1" + bytes(12), "chunk of 13 bytes"),
        (b"\2" + bytes(13), "kind 2"),
        (b"\1" + b"\xff" * 8 + bytes(5), "above"),
        (b"\1" + bytes(12 + MAX_CHUNK + 1), "allowed: 14 to 65549"),
    ],
)
def test_everything_else_is_refused(data, complaint):
    """One error says what is wrong: no JSON, no known type, a field that is missing, wrong or too large."""
    with pytest.raises(ProtocolError, match=complaint):
        read_message(data)


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_nothing_but_protocol_errors_comes_of_garbage(data):
    """Whatever text or bytes come, reading them gives a message or a ProtocolError."""
    with contextlib.suppress(ProtocolError):
        read_message(data)


def test_what_no_reader_takes_is_not_written():
    """A number that is none is an error of whoever writes it, and never goes over the wire."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_message(Clock(math.nan))
