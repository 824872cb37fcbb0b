"""Disks that are full or hang: frames are answered all the same, and no memory fills up."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
import time

from serving import PATIENCE_S, Camera, serving

from runtime.protocol import Ack, Chunk, Frame, Result

GATE = "gate-0123456789abcdef"
LONG_S = 20.0


def send(camera, sequence, stream, deadline_s=None):
    """Send a whole frame."""
    camera.send(Frame(sequence, len(stream), None, deadline_s, 1e9), Chunk(sequence, 0, stream))


def test_a_full_disk_is_said_and_the_server_goes_on(running, camera, tiny_stream, monkeypatch):
    """Answers come all the same, as not stored; once there is room, the same frame can be stored."""

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    gate = camera()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        gate.send(Frame(1, len(tiny_stream), None, 20.0, 1e9), Chunk(1, 0, tiny_stream))
        result = gate.until(Result)
        assert (result.status, result.stored) == ("ok", False)
        gate.send(Frame(2, len(tiny_stream), None, None, 1e9), Chunk(2, 0, tiny_stream))
        assert not gate.until(Result).stored
    assert running.server.metrics.store_errors._value.get() >= 2
    gate.send(Frame(1, len(tiny_stream), None, None, 1e9))
    held = gate.until(Ack).bytes
    if held < len(tiny_stream):
        gate.send(Chunk(1, held, tiny_stream[held:]))
    assert gate.until(Result).stored


def test_a_disk_that_hangs_takes_no_memory_without_end(settings, tiny_codec, tiny_stream, monkeypatch):
    """Frames are answered in time, as not stored; what memory has no room for is counted, the rest is written later."""
    limits = dataclasses.replace(settings.limits, frame_bytes=20_000, memory_bytes=20_000)
    works_again = threading.Event()
    with (
        serving(dataclasses.replace(settings, limits=limits)) as running,
        Camera(running.port, "gate", GATE, tiny_codec.bundle.exact_id.hex()) as gate,
    ):
        store, intake = running.server.store, running.server.intake
        keep = store.keep

        def hanging(*arguments: object) -> None:
            works_again.wait(PATIENCE_S)
            keep(*arguments)

        monkeypatch.setattr(store, "keep", hanging)
        gate.greet()
        for sequence in range(1, 13):
            send(gate, sequence, tiny_stream, 0.3)
            result = gate.until(Result)
            assert (result.sequence, result.stored) == (sequence, False)
        assert 0 < intake._disk.waiting_bytes <= 20_000
        assert running.server.metrics.store_errors._value.get() >= 6
        works_again.set()
        for _ in range(int(PATIENCE_S / 0.02)):
            if not intake._disk.waiting_bytes:
                break
            time.sleep(0.02)
        assert 1 <= len(store.frames("gate")) < 12
