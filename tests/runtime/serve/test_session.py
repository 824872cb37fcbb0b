"""A camera's connection: the whole way of a frame, and everything that can go wrong on it."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from typing import ClassVar

import pytest
from serving import PATIENCE_S, Camera, serving
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from runtime.protocol import (
    INGEST_PATH,
    SUBPROTOCOL,
    Ack,
    Chunk,
    Clock,
    End,
    Fault,
    Frame,
    Hello,
    Message,
    Result,
    read_message,
    write_message,
)
from runtime.serve import worker
from runtime.serve.session import Session

GATE, YARD = "gate-0123456789abcdef", "yard-0123456789abcdef"
LONG_S = 20.0


def send(camera, sequence, stream, deadline_s=None, at_s=None):
    """Send a whole frame."""
    camera.send(Frame(sequence, len(stream), at_s, deadline_s, 1e9), Chunk(sequence, 0, stream))


def test_a_frame_is_answered_and_kept(running, camera, tiny_stream):
    """What came is acknowledged, decoded and on the disk when the result says so."""
    gate = camera()
    gate.send(Frame(1, len(tiny_stream), None, LONG_S, 1e9))
    assert gate.receive() == Ack(1, 0)
    gate.send(Chunk(1, 0, tiny_stream[:300]), End(1, 300))
    result = gate.until(Result)
    assert (result.status, result.bytes, result.stored) == ("ok", 300, True)
    assert 0 < result.steps < result.steps_total and result.margin_ms > 0
    assert Ack(1, 300) in gate.seen
    (row,) = running.server.store.frames("gate")
    assert running.server.store.stream(row) == tiny_stream[:300]


def test_a_whole_stream_is_answered_before_its_deadline(camera, tiny_stream):
    """Nothing is gained by waiting."""
    gate = camera()
    send(gate, 1, tiny_stream, deadline_s=LONG_S)
    result = gate.until(Result)
    assert (result.status, result.bytes, result.steps) == ("ok", len(tiny_stream), result.steps_total)
    assert result.margin_ms > 1000 * LONG_S / 2


def test_a_cut_frame_is_answered_at_its_deadline(camera, tiny_stream, monkeypatch):
    """The camera never says that nothing more comes; the answer does not wait for that."""
    monkeypatch.setattr(worker, "_SEND_S", 0.5)  # kept before the deadline, so that busy machines are in time, too
    gate = camera()
    gate.send(Frame(1, len(tiny_stream), None, 2.0, 1e9), Chunk(1, 0, tiny_stream[:250]))
    result = gate.until(Result)
    assert result.bytes == 250 and result.status in ("ok", "preview")
    assert 0 <= result.margin_ms < 1000


def test_frames_mixed_in_one_connection(camera, tiny_stream):
    """Several open frames grow side by side, and each is answered once."""
    gate = camera()
    for sequence in (1, 2, 3):
        gate.send(Frame(sequence, len(tiny_stream), None, LONG_S, 1e9))
    for start in range(0, len(tiny_stream), 100):
        for sequence in (1, 2, 3):
            gate.send(Chunk(sequence, start, tiny_stream[start : start + 100]))
    results = [gate.until(Result) for _ in range(3)]
    assert {one.sequence for one in results} == {1, 2, 3}
    assert {one.status for one in results} == {"ok"}


def test_chunks_sent_twice_or_overlapping_change_nothing(running, camera, tiny_stream):
    """A frame is its bytes by offset."""
    gate = camera()
    gate.send(
        Frame(1, len(tiny_stream), None, None, 1e9),
        Chunk(1, 0, tiny_stream[:120]),
        Chunk(1, 0, tiny_stream[:120]),
        Chunk(1, 60, tiny_stream[60:200]),
        Chunk(1, 200, tiny_stream[200:]),
    )
    assert gate.until(Result).status == "ok"
    assert running.server.store.stream(running.server.store.frame("gate", 1)) == tiny_stream


def test_a_deadline_that_has_passed_is_missed_and_the_bytes_are_kept(running, camera, tiny_stream):
    """Late frames cost nothing, and are not lost: without a deadline they are answered later."""
    gate = camera()
    server_now = running.server.clock()
    gate.send(Frame(1, len(tiny_stream), server_now - 10.0, 1.0, 1e9))
    result = gate.until(Result)
    assert (result.status, result.bytes) == ("missed", 0) and result.margin_ms < -8000
    gate.send(Chunk(1, 0, tiny_stream[:300]), End(1, 300), Clock(1.0))
    gate.until(Clock)
    gate.send(Frame(1, len(tiny_stream), None, None, 1e9))
    assert gate.until(Ack).bytes == 300
    gate.send(Chunk(1, 300, tiny_stream[300:]))
    result = gate.until(Result)
    assert (result.status, result.bytes, result.stored) == ("ok", len(tiny_stream), True)


def test_a_frame_from_the_future_counts_from_its_arrival(camera, tiny_stream):
    """No clock that runs ahead gains time."""
    gate = camera()
    send(gate, 1, tiny_stream, deadline_s=LONG_S, at_s=1e9)
    assert 0 < gate.until(Result).margin_ms <= 1000 * LONG_S


def test_a_frame_goes_on_after_a_lost_connection(running, camera, tiny_stream):
    """What the server holds it does not ask for again."""
    first = camera()
    first.send(Frame(7, len(tiny_stream), None, None, 1e9), Chunk(7, 0, tiny_stream[:300]))
    while first.until(Ack).bytes < 300:
        pass
    first.close()
    second = camera()
    second.send(Frame(7, len(tiny_stream), None, None, 1e9))
    assert second.until(Ack) == Ack(7, 300)
    second.send(Chunk(7, 300, tiny_stream[300:]))
    result = second.until(Result)
    assert (result.status, result.bytes, result.stored) == ("ok", len(tiny_stream), True)


def test_a_frame_that_is_whole_gets_its_former_result(camera, tiny_stream):
    """Asking twice is answered twice, alike."""
    gate = camera()
    send(gate, 1, tiny_stream, deadline_s=LONG_S)
    first = gate.until(Result)
    gate.send(Frame(1, len(tiny_stream), None, None, 1e9))
    assert gate.until(Ack) == Ack(1, len(tiny_stream))
    assert gate.until(Result) == first


def test_reopened_without_news_gets_its_former_result(camera, tiny_stream):
    """`end` without new bytes is no reason to decode."""
    gate = camera()
    gate.send(Frame(1, len(tiny_stream), None, LONG_S, 1e9), Chunk(1, 0, tiny_stream[:300]), End(1, 300))
    first = gate.until(Result)
    gate.send(Frame(1, len(tiny_stream), None, None, 1e9), End(1, 0))
    again = gate.until(Result)
    assert (again.status, again.bytes, again.steps) == (first.status, first.bytes, first.steps)


def test_a_former_result_says_what_is_stored_by_now(running, camera, tiny_stream):
    """The disk was too slow for the answer; when the frame is opened again, its bytes are there."""
    gate = camera()
    gate.send(Frame(1, len(tiny_stream), None, 0.3, 1e9), Chunk(1, 0, tiny_stream[:300]))
    result = gate.until(Result)
    frame = running.server.intake._frames["gate", 1]
    for _ in range(int(PATIENCE_S / 0.02)):
        if frame.kept == 300:
            break
        threading.Event().wait(0.02)
    frame.former = dataclasses.replace(result, bytes=300, stored=False)
    gate.send(Frame(1, len(tiny_stream), None, None, 1e9), End(1, 0))
    assert gate.until(Result) == dataclasses.replace(result, bytes=300, stored=True)


def test_the_newest_connection_of_a_camera_is_the_one(camera, tiny_stream):
    """One that hangs does not keep its camera out."""
    old, new = camera(), camera()
    with pytest.raises(ConnectionClosed):
        old.until(Result)
    send(new, 1, tiny_stream, deadline_s=LONG_S)
    assert new.until(Result).status == "ok"


def test_the_clock_is_told(running, camera):
    gate = camera()
    before = running.server.clock()
    gate.send(Clock(12.5))
    answer = gate.receive()
    assert isinstance(answer, Clock) and answer.sent_s == 12.5
    assert before <= answer.at_s <= running.server.clock()


# What is refused.


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"token": "yard-0123456789abcdef"}, "unauthorized"),
        ({"token": ""}, "unauthorized"),
        ({"camera": "nobody"}, "unauthorized"),
        ({"camera": ""}, "unauthorized"),
        ({"exact_id": "0123456789abcdef"}, "wrong_bundle"),
        ({"protocol": 2}, "version"),
    ],
)
def test_who_is_not_let_in(running, tiny_codec, change, code):
    """One fault, and the connection ends."""
    exact_id = change.get("exact_id", tiny_codec.bundle.exact_id.hex())
    with Camera(running.port, change.get("camera", "gate"), change.get("token", GATE), exact_id) as stranger:
        stranger.send(dataclasses.replace(stranger.hello, protocol=change.get("protocol", 1)))
        fault = stranger.receive()
        assert isinstance(fault, Fault) and (fault.code, fault.sequence) == (code, None)
        with pytest.raises(ConnectionClosed):
            stranger.receive()
    assert running.server.intake.connected_cameras == set()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"type":"hallo"}', '{"type":"hello"}', b"\0", b"x" * 100])
def test_garbage_instead_of_hello(running, content):
    with Camera(running.port, "gate", GATE, "") as stranger:
        stranger.send_raw(content)
        fault = stranger.receive()
        assert isinstance(fault, Fault) and fault.code == "malformed"
        with pytest.raises(ConnectionClosed):
            stranger.receive()


def test_frames_before_hello(running, tiny_stream):
    with Camera(running.port, "gate", GATE, "") as stranger:
        stranger.send(Frame(1, len(tiny_stream), None, None, 1e9))
        assert stranger.receive().code == "malformed"


def test_a_handshake_without_the_subprotocol(running):
    with pytest.raises(InvalidStatus), connect(f"{running.ws}{INGEST_PATH}", compression=None):
        pass


def test_a_message_beyond_the_longest_ends_the_connection(running):
    with Camera(running.port, "gate", GATE, "") as stranger:
        stranger.send_raw(b"\1" + bytes(1 << 20))
        with pytest.raises(ConnectionClosed):
            stranger.receive()


def test_silence_before_hello_ends_the_connection(settings):
    """Who connects and says nothing is shown out, with a word."""
    short = dataclasses.replace(settings, limits=dataclasses.replace(settings.limits, hello_s=0.05))
    with (
        serving(short) as running,
        Camera(running.port, "gate", GATE, "") as stranger,
        pytest.raises(ConnectionClosed),
    ):
        stranger.receive()


@pytest.mark.parametrize(
    "messages",
    [
        [Chunk(1, 0, b"never opened")],
        [Frame(1, 1000, None, None, 0.0), Chunk(1, 10, b"a gap")],
        [End(5, 0)],
        [Ack(1, 5)],
        [Frame(1, 1000, None, None, 0.0), Frame(1, 999, None, None, 0.0)],
    ],
    ids=["chunk of no frame", "gap", "end of no frame", "a server's message", "another size"],
)
def test_what_ends_a_connection(camera, messages):
    gate = camera()
    gate.send(*messages)
    fault = gate.until(Fault)
    assert (fault.code, fault.sequence) == ("malformed", None)
    with pytest.raises(ConnectionClosed):
        gate.until(Result)


def test_what_is_refused_and_leaves_the_connection(camera, settings, tiny_stream):
    """Too long, too many at a time, beyond its end: a fault with the frame's number; late chunks of it are ignored."""
    gate = camera()
    limits = settings.limits
    gate.send(Frame(1, limits.frame_bytes + 1, None, None, 0.0), Chunk(1, 0, b"late"))
    assert (gate.receive().code, gate.seen[-1].sequence) == ("too_large", 1)
    gate.send(Frame(2, 0, None, None, 0.0))
    assert gate.until(Fault).code == "too_large"
    for sequence in range(3, 4 + limits.frames):
        gate.send(Frame(sequence, 100, None, None, 0.0))
    fault = gate.until(Fault)
    assert (fault.code, fault.sequence) == ("too_many", 3 + limits.frames) and fault.retry_after_s > 0
    gate.send(Chunk(3, 0, bytes(101)))
    assert (gate.until(Fault).code, gate.seen[-1].sequence) == ("too_large", 3)
    gate.send(End(3, 0), End(4, 0))
    assert {gate.until(Result).sequence, gate.until(Result).sequence} == {3, 4}
    send(gate, 99, tiny_stream)
    assert gate.until(Result).status == "ok"


def test_a_stored_frame_is_not_mixed_with_another(camera, tiny_stream):
    """A stream of another length under the same number is another stream."""
    gate = camera()
    send(gate, 1, tiny_stream, deadline_s=LONG_S)
    gate.until(Result)
    gate.send(Frame(1, len(tiny_stream) + 100, None, None, 1e9))
    fault = gate.until(Fault)
    assert (fault.code, fault.sequence) == ("malformed", None)


def test_an_ended_frame_is_forgotten_with_its_answer(running, camera):
    """`end` comes before the answer, and nothing after it."""
    gate = camera()
    for sequence in range(10):
        gate.send(Frame(sequence, 2, None, None, 0.0), End(sequence, 0))
        assert gate.until(Result).status == "unusable"
    assert not running.server.intake._frames


def test_answered_frames_are_remembered_up_to_the_limit(running, camera, settings):
    """The latest; and one that is opened again counts like any other."""
    gate, frames = camera(), settings.limits.frames
    for sequence in range(20):
        gate.send(Frame(sequence, 2, running.server.clock() - 10.0, 1.0, 0.0))
        assert gate.until(Result).status == "missed"
    assert list(running.server.intake._frames) == [("gate", sequence) for sequence in range(20 - frames, 20)]
    for sequence in range(20, 20 + frames):
        gate.send(Frame(sequence, 2, None, None, 0.0))
    gate.send(Frame(19, 2, None, None, 0.0))
    fault = gate.until(Fault)
    assert (fault.code, fault.sequence) == ("too_many", 19)


def test_memory_is_bounded_by_claims(settings, tiny_codec, tiny_stream):
    """What open frames claim fits what is set aside, one camera gets a share of it; who waits is told how long."""
    limits = dataclasses.replace(settings.limits, frame_bytes=1000, memory_bytes=1500)
    exact_id = tiny_codec.bundle.exact_id.hex()
    with (
        serving(dataclasses.replace(settings, limits=limits)) as running,
        Camera(running.port, "gate", GATE, exact_id) as gate,
        Camera(running.port, "yard", YARD, exact_id) as yard,
    ):
        gate.greet()
        yard.greet()
        for sequence in (1, 2):
            gate.send(Frame(sequence, 1000, None, None, 0.0))
        fault = gate.until(Fault)
        assert (fault.code, fault.sequence) == ("too_many", 2) and fault.retry_after_s > 0
        yard.send(Frame(3, 1000, None, None, 0.0))
        fault = yard.until(Fault)
        assert (fault.code, fault.sequence) == ("busy", 3) and fault.retry_after_s > 0
        gate.send(End(1, 0))
        gate.until(Result)
        yard.send(Frame(4, 1000, None, None, 0.0))
        assert yard.until(Ack).sequence == 4


def test_overload_is_refused_and_the_others_are_answered(running, camera, tiny_stream, monkeypatch):
    """A frame that would make others late gets `busy`, and no result."""
    gate = camera()
    gate.send(Frame(1, len(tiny_stream), None, LONG_S, 1e9))
    gate.until(Ack)
    monkeypatch.setattr(running.server.intake.desk, "overload_s", lambda camera, due: 0.7)
    gate.send(Frame(2, len(tiny_stream), None, LONG_S, 1e9))
    fault = gate.until(Fault)
    assert (fault.code, fault.sequence, fault.retry_after_s) == ("busy", 2, 0.7)
    gate.send(Chunk(2, 0, tiny_stream), Chunk(1, 0, tiny_stream))
    assert gate.until(Result).sequence == 1


@pytest.mark.parametrize("content", [b"no stream " * 20, b"\x89CUT", b""])
def test_what_is_no_stream_is_unusable(camera, content):
    gate = camera()
    gate.send(Frame(1, 500, None, LONG_S, 0.0))
    if content:
        gate.send(Chunk(1, 0, content))
    gate.send(End(1, len(content)))
    assert gate.until(Result).status == "unusable"


def test_damage_is_said(camera, golden_folder):
    """The picture is that of the bytes before the damage."""
    stream = (golden_folder / "damaged" / "second-frame.cut").read_bytes()
    gate = camera()
    send(gate, 1, stream)
    result = gate.until(Result)
    assert result.status == "damaged" and 0 < result.bytes < len(stream)


def test_a_client_that_reads_nothing_is_cut_off(running, settings, tiny_codec):
    """Answers that nobody reads do not fill the server's memory."""
    server = running.server
    exact_id = tiny_codec.bundle.exact_id.hex()

    class Stuck:
        """A WebSocket whose other side sends without end and never reads."""

        scope: ClassVar = {"subprotocols": [SUBPROTOCOL]}
        received = 0

        async def accept(self, subprotocol: str) -> None:
            pass

        async def receive(self) -> dict[str, str]:
            await asyncio.sleep(0)
            self.received += 1
            message = Hello(1, GATE, "gate", exact_id, 1.0) if self.received == 1 else Clock(1.0)
            return {"type": "websocket.receive", "text": write_message(message)}

        async def send_text(self, text: str) -> None:
            await asyncio.Event().wait()

    class Nobody:
        """An intake that is asked for nothing."""

        metrics = server.metrics
        left = False

        def connected(self, camera: str, client: Session) -> None:
            pass

        def lost(self, camera: str, client: Session) -> None:
            self.left = True

    async def run() -> None:
        limits = dataclasses.replace(settings.limits, messages_per_s=1e9)
        stuck, nobody = Stuck(), Nobody()
        await asyncio.wait_for(Session(stuck, nobody, server.tokens, limits, exact_id).run(), PATIENCE_S)
        assert nobody.left and stuck.received < 1000

    asyncio.run(run())


def test_no_message_overtakes_another(settings):
    """A result that says *stored* means what was acknowledged before it; later acknowledgements come after it."""
    said: list[Message] = []
    stored = Result(1, "ok", 10, 1.0, 2, None, True)

    class Listener:
        """A WebSocket that writes down what it is sent."""

        async def send_text(self, text: str) -> None:
            said.append(read_message(text))

    async def run() -> None:
        session = Session(Listener(), None, None, settings.limits, "")
        for message in (Ack(1, 5), Ack(2, 7), Ack(1, 10), stored, Ack(1, 20), Clock(1.0, 2.0), Ack(1, 30)):
            session.send(message)
        writer = asyncio.create_task(session._write())
        while len(said) < 6:
            await asyncio.sleep(0)
        writer.cancel()

    asyncio.run(asyncio.wait_for(run(), PATIENCE_S))
    assert said == [Ack(1, 10), Ack(2, 7), stored, Ack(1, 20), Clock(1.0, 2.0), Ack(1, 30)]
