"""A camera's connection: the whole way of a frame, and everything that can go wrong on it."""

from __future__ import annotations

from runtime.protocol import Ack, Chunk, End, Frame, Result

LONG_S = 20.0


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
