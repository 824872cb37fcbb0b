"""Chunks that a server will never acknowledge must not keep others from being sent."""

from __future__ import annotations

from edge_frames import frame

from edge_client.dispatch import Dispatch
from edge_client.link import Link
from edge_client.schedule import Pace
from runtime.protocol import Chunk, Clock, Fault, Frame, Message, Welcome


def connected() -> Dispatch:
    one = Dispatch(Link(8000.0), Pace(chunk_bytes=1400, answer_s=0.06, queue_s=0.1), 4)
    one.connected(Welcome(1, 0.0, 500.0, 8, 1_000_000), 0.02)
    return one


def said(one: Dispatch, now: float) -> list[Message]:
    messages: list[Message] = []
    while (message := one.next_message(now)) is not None:
        messages.append(message)
    return messages


def test_a_refused_frame_leaves_its_place_on_the_link() -> None:
    """Its chunks are on their way already when the refusal comes; the next frame is sent all the same."""
    one = connected()
    for sequence in range(1, 30):
        now = float(sequence)
        one.add(frame(sequence, due=now + 2))
        messages = said(one, now)
        assert [message.sequence for message in messages if isinstance(message, Frame)] == [sequence]
        assert any(isinstance(message, Chunk) and message.sequence == sequence for message in messages)
        one.receive(Fault("busy", "too much", sequence, 0.1), now + 0.2)
        assert one.link.in_flight == 0


def test_what_is_not_acknowledged_is_given_up_when_the_clock_is_answered() -> None:
    """The connection keeps the order: the answer to a later question tells that the chunks have arrived."""
    one = connected()
    one.add(frame(1, due=100.0))
    said(one, 1.0)
    held_up = one.link.in_flight
    assert held_up > 0
    (clock,) = (message for message in said(one, 11.0) if isinstance(message, Clock))
    one.add(frame(2, due=100.0, gain=9.0))
    one.receive(Clock(clock.sent_s, 511.0), 11.2)
    assert one.link.in_flight == 0
    assert any(isinstance(message, Chunk) for message in said(one, 11.3))
