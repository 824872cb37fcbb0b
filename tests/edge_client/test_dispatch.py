"""The conversation with the server in made-up time: openings, chunks, ends, answers, lost connections."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from edge_frames import SimulatedServer, frame
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.dispatch import Dispatch, Finished
from edge_client.link import Link
from edge_client.schedule import Pace
from runtime.protocol import (
    Ack,
    Chunk,
    Clock,
    End,
    Enough,
    Fault,
    Frame,
    Message,
    ProtocolError,
    Result,
    Welcome,
)

PACE = Pace(chunk_bytes=1400, answer_s=0.06, queue_s=0.1)
WELCOME = Welcome(1, 0.0, 500.0, 8, 1_000_000)


def dispatch(frames: int = 4, frame_bytes: int | None = None, rate: float = 1e6) -> Dispatch:
    return Dispatch(Link(rate), PACE, frames, frame_bytes)


def connected(**options: float) -> Dispatch:
    one = dispatch(**options)  # type: ignore[arg-type]
    one.connected(WELCOME, 0.02)
    return one


def said(one: Dispatch, now: float) -> list[Message]:
    """Return all that is said at *now*, each chunk acknowledged at once."""
    messages: list[Message] = []
    while (message := one.next_message(now)) is not None:
        messages.append(message)
        if isinstance(message, Chunk):
            one.receive(Ack(message.sequence, message.offset + len(message.data)), now)
    return messages


def whys(finished: list[Finished]) -> dict[int, str]:
    return {each.frame.sequence: each.why for each in finished}


def result(sequence: int, size: int = 100) -> Result:
    return Result(sequence, "ok", size, 1.0, 9, 3.0, True)


def test_frame_is_opened_and_sent_whole_in_order() -> None:
    """`Frame` with the server's instant and the time left, then chunks without a gap; a whole stream needs no `End`."""
    one = connected()
    sent = frame(7, due=1.0, size=5000)
    one.add(sent)
    first, *chunks = said(one, 0.1)
    assert first == Frame(7, 5000, pytest.approx(500.09), pytest.approx(0.9), 0.0)
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    assert b"".join(chunk.data for chunk in chunks if isinstance(chunk, Chunk)) == sent.stream
    one.receive(result(7, 5000), 0.3)
    (done,) = one.finished(0.3)
    assert (done.why, done.held, done.answered_at) == ("answered", 5000, 0.3)


def test_nothing_is_said_before_the_welcome() -> None:
    """A frame waits, and is late if no connection comes."""
    one = dispatch()
    one.add(frame(1, due=1.0))
    assert one.next_message(0.5) is None
    assert not one.finished(0.5)
    assert whys(one.finished(1.0)) == {1: "late"}


def test_budget_of_a_frame_is_kept_and_ended() -> None:
    """No more than frame_bytes are sent, then `End` says so; a spooled frame has a limit of its own."""
    one = connected(frame_bytes=3000)
    one.add(frame(1, due=1.0))
    messages = said(one, 0.1)
    assert sum(len(message.data) for message in messages if isinstance(message, Chunk)) == 3000
    assert messages[-1] == End(1, 3000)
    one.add(frame(2), limit=2000, known=0)
    said(one, 0.1)
    one.receive(Ack(2, 0), 0.1)
    messages = said(one, 0.1)
    assert messages[-1] == End(2, 2000)


def test_enough_stops_a_frame() -> None:
    """After *enough* not a byte more is sent, and no `End`: the answer comes by itself."""
    one = connected(rate=1000.0)
    one.add(frame(1, due=5.0))
    assert isinstance(one.next_message(0.1), Frame)
    assert isinstance(one.next_message(0.1), Chunk)
    one.receive(Enough(1), 0.2)
    assert one.next_message(0.2) is None
    one.receive(result(1), 0.3)
    (done,) = one.finished(0.3)
    assert done.enough and done.why == "answered"


def test_deadline_ends_a_frame_and_its_answer_may_come_after() -> None:
    """When nothing could arrive in time any more, `End` lets the server answer; without an answer the frame is late."""
    one = connected(rate=1000.0)
    one.add(frame(1, due=0.5))
    one.next_message(0.1), one.next_message(0.1)
    assert one.wake_at(0.1) == pytest.approx(0.5 - 0.06 - 0.01)
    assert isinstance(one.next_message(0.45), End)
    assert one.next_message(0.46) is None
    assert not one.finished(0.6)
    assert whys(one.finished(3.0)) == {1: "late"}


def test_newest_frames_get_the_places() -> None:
    """More frames than may be under way: the oldest that was not opened gives way, the newest always stays."""
    one = dispatch(frames=2)
    for sequence in range(4):
        one.add(frame(sequence, due=1.0))
    assert whys(one.finished(0.0)) == {0: "displaced", 1: "displaced"}
    one.connected(WELCOME, 0.02)
    said(one, 0.1)
    one.add(frame(9, due=1.0))
    assert 9 in one.under_way


def test_frames_that_only_wait_for_their_answers_take_no_place() -> None:
    """Otherwise answers that are late would keep new frames from being sent."""
    one = connected(frames=1)
    one.add(frame(1, due=1.0, size=2000))
    said(one, 0.1)
    one.add(frame(2, due=1.0, size=2000))
    assert Chunk(2, 0, frame(2).stream[:1400]) in said(one, 0.1)


def test_no_more_frames_are_open_than_the_server_allows() -> None:
    """Whether they are being sent or wait for their answers."""
    one = dispatch(frames=4)
    one.connected(Welcome(1, 0.0, 0.0, 2, 1_000_000), 0.02)
    for sequence in range(4):
        one.add(frame(sequence, due=1.0, size=2000))
    assert sum(isinstance(message, Frame) for message in said(one, 0.1)) == 2
    one.receive(result(3), 0.2)
    assert sum(isinstance(message, Frame) for message in said(one, 0.2)) == 1


def test_lost_connection_goes_on_where_the_server_is() -> None:
    """The frame is opened again, nothing is sent before the server said what it holds, then the rest, once."""
    one = connected(rate=2000.0)
    one.add(frame(1, due=5.0, size=4000))
    opened, chunk = one.next_message(0.1), one.next_message(0.1)
    assert isinstance(opened, Frame) and isinstance(chunk, Chunk)
    one.lost(0.2)
    assert not one.online
    one.connected(WELCOME, 0.5)
    assert isinstance(one.next_message(0.5), Frame)
    assert one.next_message(0.5) is None
    one.receive(Ack(1, 1000), 0.6)
    chunks = [message for message in said(one, 0.6) if isinstance(message, Chunk)]
    assert chunks[0].offset == 1000
    assert sum(len(each.data) for each in chunks) == 3000


def test_a_server_that_has_forgotten_gets_all_again() -> None:
    """What one that restarted never wrote is not taken for sent, whatever it had acknowledged."""
    one = connected()
    one.add(frame(1, due=60.0, size=20_000))
    one.next_message(0.1)
    chunk = one.next_message(0.1)
    assert isinstance(chunk, Chunk)
    one.receive(Ack(1, len(chunk.data)), 0.2)
    one.lost(0.3)
    one.connected(WELCOME, 0.5)
    assert isinstance(one.next_message(0.5), Frame)
    one.receive(Ack(1, 0), 0.6)
    chunks = [message for message in said(one, 0.6) if isinstance(message, Chunk)]
    assert chunks[0].offset == 0 and sum(len(each.data) for each in chunks) == 20_000


def test_lost_connection_finishes_what_has_no_time_left() -> None:
    """Those frames, and those of the spool, go back to whoever keeps them."""
    one = connected()
    one.add(frame(1, due=1.0))
    one.add(frame(2), known=0)
    said(one, 0.1)
    one.lost(2.0)
    assert whys(one.finished(2.0)) == {1: "lost", 2: "lost"}


def test_busy_server_is_left_alone_for_a_while() -> None:
    """A refused frame is finished, and no other is opened before retry_after_s."""
    one = connected()
    one.add(frame(1, due=9.0))
    said(one, 0.1)
    one.receive(Fault("busy", "too much to do", 1, 2.0), 0.2)
    assert whys(one.finished(0.2)) == {1: "refused"}
    one.add(frame(2, due=9.0))
    assert said(one, 0.3) == []
    assert one.wake_at(0.3) == pytest.approx(2.2)
    assert isinstance(said(one, 2.3)[0], Frame)


def test_link_is_usable_after_a_refusal() -> None:
    """The refused frame's chunks are never acknowledged; they do not make the link look slower and slower."""
    one = connected(rate=64_000.0)
    one.add(frame(1, due=1.0, size=20_000))
    out = []
    while (message := one.next_message(0.1)) is not None:
        out.append(message)
    assert any(isinstance(message, Chunk) for message in out)
    one.receive(Fault("busy", "too much to do", 1, 0.5), 0.2)
    assert one.link.in_flight == 0
    one.add(frame(2, due=61.0, size=20_000))
    assert [type(message) for message in said(one, 60.2)][:3] == [Clock, Frame, Chunk]


def test_chunks_that_the_server_passes_over_are_forgotten() -> None:
    """A later message's answer shows that they arrived, whatever became of them there."""
    one = connected(rate=64_000.0)
    one.add(frame(1, due=9.0, size=20_000))
    while one.next_message(0.1) is not None:
        pass
    out = one.link.in_flight
    assert out > 0
    one.receive(Clock(0.1, 500.0), 0.3)  # sent no later than they were
    assert one.link.in_flight == out
    one.receive(Clock(10.1, 510.0), 10.2)
    assert one.link.in_flight == 0


def test_stream_that_the_server_does_not_accept_is_not_offered() -> None:
    """Longer than frame_bytes of the welcome: refused without a word."""
    one = dispatch()
    one.add(frame(1, due=1.0))
    one.connected(Welcome(1, 0.0, 0.0, 8, 10_000), 0.02)
    assert whys(one.finished(0.02)) == {1: "refused"}
    assert one.next_message(0.02) is None


def test_clocks_are_compared_now_and_then() -> None:
    """Every ten seconds; the exchange with the shortest round trip tells the server's clock."""
    one = connected()
    assert one.next_message(1.0) is None
    asked = one.next_message(10.1)
    assert asked == Clock(10.1)
    one.receive(Clock(10.1, 600.0), 10.102)
    assert one.server_clock.at(10.101) == pytest.approx(600.0)
    one.receive(Clock(20.2, 900.0), 21.0)  # a slow exchange counts for nothing
    assert one.server_clock.at(10.101) == pytest.approx(600.0)


@pytest.mark.parametrize("message", [Clock(1.0), Frame(1, 1, None, None, 0.0), WELCOME, End(1, 1)])
def test_what_no_server_says_then_is_refused(message: Message) -> None:
    """The connection is of no use any more."""
    with pytest.raises(ProtocolError):
        connected().receive(message, 1.0)


def test_messages_of_unknown_frames_are_left_alone() -> None:
    """They may concern frames that were finished before."""
    one = connected()
    for message in (Ack(99, 10), Enough(99), result(99), Fault("busy", "", 99)):
        one.receive(message, 1.0)
    assert one.finished(1.0) == []


def test_places_for_the_spool_leave_room_for_the_camera() -> None:
    """Two frames at most, none that a frame with a deadline might need; on a server with one place, one."""
    assert dispatch().spare() == 0
    assert connected(frames=4).spare() == 2
    one = dispatch(frames=4)
    one.connected(Welcome(1, 0.0, 0.0, 1, 1000), 0.0)
    assert one.spare() == 1


def simulated(rate: Callable[[float], float], delay_s: float, seconds: float = 10.0) -> tuple[SimulatedServer, int]:
    """Send five frames per second with 0.5 s each; return the server and how many there were."""
    one = dispatch(rate=32_000.0)
    server = SimulatedServer(one, rate, delay_s)
    count = int(5 * seconds)
    for number in range(count):
        server.add(number / 5 + 0.01, frame(number, due=number / 5 + 0.51))
    server.run(seconds + 3)
    return server, count


@pytest.mark.parametrize(
    ("kbps", "delay_s", "in_time", "carried"),
    [(64, 0.01, 0.9, 0.65), (128, 0.1, 0.85, 0.7), (256, 0.01, 0.98, 0.85), (512, 0.1, 0.98, 0.8)],
)
def test_slow_links_are_used_and_every_frame_has_its_picture(
    kbps: int, delay_s: float, in_time: float, carried: float
) -> None:
    """From 64 to 512 kbit/s: nearly all frames are answered in time, on most of the bytes that the link could carry."""
    server, count = simulated(lambda now: kbps * 125.0, delay_s)
    useful = [size for size in server.used.values() if size >= 900]
    assert len(useful) >= in_time * count
    assert sum(useful) >= carried * kbps * 125 * 10


def test_link_that_drops_recovers() -> None:
    """From 512 to 64 kbit/s and back: what was out is late, then all frames are in time again."""
    server, _ = simulated(lambda now: 64_000.0 if not 3 <= now < 6 else 8000.0, 0.01, 9.0)
    answered = {number for number, size in server.used.items() if size >= 900}
    assert answered >= {*range(14), *range(22, 30), *range(32, 44)}


@pytest.mark.parametrize("answer_s", [0.02, 0.2])
def test_time_of_the_servers_answers_is_learned(answer_s: float) -> None:
    """From 0.06 s that it was taken for: soon no byte is too late for a slower server, and a faster one gets more."""
    one = dispatch(rate=32_000.0)
    server = SimulatedServer(one, lambda now: 32_000.0, 0.02, answer_s)
    for number in range(100):
        server.add(number / 2 + 0.01, frame(number, due=number / 2 + 0.51, size=60_000))
    server.run(60.0)
    assert one.answer_time.seconds == pytest.approx(answer_s, abs=0.06)
    late = server.late_bytes
    for number in range(200, 210):
        server.add(number / 2 + 0.01, frame(number, due=number / 2 + 0.51, size=60_000))
    server.run(120.0)
    assert server.late_bytes - late < 10 * 1400


def test_bytes_that_come_too_late_are_few() -> None:
    """On a link that keeps its rate, hardly a byte arrives after its frame's answer."""
    server, _ = simulated(lambda now: 32_000.0, 0.05)
    assert server.late_bytes < 0.05 * server.dispatch.bytes_sent


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.05, 1.5), st.integers(1000, 30_000)), max_size=12), st.data())
def test_every_frame_is_finished_once(frames: list[tuple[float, float, int]], data: st.DataObject) -> None:
    """Whatever the link does and however often the connection is lost, each frame comes back exactly once."""
    one = dispatch(rate=data.draw(st.floats(1000, 1e6)))
    rate = data.draw(st.floats(500, 1e6))
    server = SimulatedServer(one, lambda now: rate, data.draw(st.floats(0, 0.3)))
    for number, (at, deadline_s, size) in enumerate(frames):
        server.add(at, frame(number, due=at + deadline_s, size=size))
    lost_at = data.draw(st.floats(0, 3))
    server.at(lost_at, one.lost)
    server.at(lost_at + 0.2, lambda now: one.connected(Welcome(1, now - 0.1, now, 16, 10**7), now))
    server.run(30.0)
    one.close()
    server.finished += one.finished(30.0)
    assert sorted(each.frame.sequence for each in server.finished) == list(range(len(frames)))
    assert not one.under_way
