"""Frames opened, fed, ended and taken up again in any order: nothing is lost, and every opening is answered."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from runtime.protocol import Ack, Chunk, Clock, End, Frame, Result

FRAMES = 4


class Model:
    """A camera that knows what the server must hold, and checks what it says."""

    def __init__(self, connect, stream: bytes, draw: np.random.Generator) -> None:
        self._connect, self._stream, self._draw = connect, stream, draw
        self.camera = connect()
        self.held = [0] * FRAMES
        self.open: set[int] = set()  # opened over this connection, and not answered
        self.taken: set[int] = set()  # opened over this connection, answered or not

    def reconnect(self) -> None:
        self.camera.close()
        self.camera = self._connect()
        self.open, self.taken = set(), set()

    def open_frame(self, number: int) -> None:
        self.camera.send(Frame(number, len(self._stream), None, None, 1e9))
        assert self.camera.receive() == Ack(number, self.held[number])
        self.taken.add(number)
        self.open.add(number)
        if self.held[number] == len(self._stream):
            self.result(number)

    def feed(self, number: int) -> None:
        if number not in self.taken:
            return
        held = self.held[number]
        start = int(self._draw.integers(0, held + 1))
        end = min(len(self._stream), start + int(self._draw.integers(1, 200)))
        self.camera.send(Chunk(number, start, self._stream[start:end]))
        if number in self.open:
            self.held[number] = max(held, end)
            assert self.camera.receive() == Ack(number, self.held[number])
            if self.held[number] == len(self._stream):
                self.result(number)
        else:  # after the answer bytes may be taken, or ignored
            self.camera.send(Clock(1.0))
            while not isinstance(said := self.camera.receive(), Clock):
                assert isinstance(said, Ack)
                self.held[number] = said.bytes

    def end(self, number: int) -> None:
        if number in self.open:
            self.camera.send(End(number, self.held[number]))
            self.result(number)

    def result(self, number: int) -> None:
        """The one result of an opening, after which nothing more of it comes."""
        said = self.camera.receive()
        assert isinstance(said, Result) and said.sequence == number
        assert said.stored and said.bytes <= self.held[number]
        assert said.status == ("ok" if said.bytes else "unusable")
        self.open.discard(number)


@pytest.mark.parametrize("seed", range(6))
def test_any_order(running, camera, tiny_stream, seed):
    draw = np.random.default_rng(seed)
    model = Model(camera, tiny_stream, draw)
    for _ in range(60):
        number = int(draw.integers(0, FRAMES))
        action = draw.choice(["open", "feed", "feed", "feed", "end", "reconnect"], p=[0.3, 0.15, 0.15, 0.15, 0.2, 0.05])
        if action == "reconnect":
            model.reconnect()
        elif action == "open" and number not in model.open:
            model.open_frame(number)
        elif action == "feed":
            model.feed(number)
        elif action == "end":
            model.end(number)
    model.reconnect()
    for number in range(FRAMES):
        model.open_frame(number)
        while number in model.open:
            model.feed(number)
    store = running.server.store
    for number in range(FRAMES):
        for _ in range(500):  # results are noted after they were sent
            frame = store.frame("gate", number)
            if frame.result is not None and frame.result.bytes == len(tiny_stream):
                break
            threading.Event().wait(0.02)
        assert store.stream(frame) == tiny_stream and frame.result.bytes == len(tiny_stream)
    assert not any(worker.open_tickets for worker in running.server.intake.desk._workers)
