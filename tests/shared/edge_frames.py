"""Camera frames and a link for tests of the edge client, in made-up time."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from edge_client.dispatch import Dispatch, Finished
from edge_client.frames import CameraFrame
from edge_client.worth import hull
from runtime.protocol import Ack, Chunk, Clock, End, Frame, Message, Result, Welcome, write_message

HEADERS = 48  # bytes that TCP, IP and WebSocket add to a message


def frame(
    sequence: int, due: float | None = None, size: int = 20_000, first: int = 900, gain: float = 1.0
) -> CameraFrame:
    """Return a frame whose error halves every 3,000 bytes; *gain* scales what it is worth."""
    offsets = list(range(first, size, 500))
    errors = [gain * 1500 * 2 ** (-(offset - first) / 3000) for offset in offsets]
    stream = bytes(sequence % 256 for _ in range(size))
    return CameraFrame(sequence, stream, hull(first, [0, *offsets], [gain * 4000, *errors]), 0.0, due, 0.0)


class SimulatedServer:
    """A server behind a first-in first-out link, in made-up time; it answers each frame at its deadline.

    Attributes:
        rate: bytes per second that the link carries at an instant.
        delay_s: each way.
        held: bytes of each frame that have arrived.
        used: bytes of each frame that its answer rests on.
    """

    def __init__(
        self, dispatch: Dispatch, rate: Callable[[float], float], delay_s: float, answer_s: float = 0.04
    ) -> None:
        self.dispatch, self.rate, self.delay_s, self.answer_s = dispatch, rate, delay_s, answer_s
        self.held: dict[int, int] = {}
        self.used: dict[int, int] = {}
        self.sizes: dict[int, int] = {}
        self.finished: list[Finished] = []
        self.late_bytes = 0
        self._free_at, self._count, self._wake_at = 0.0, 0, 0.0
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        dispatch.connected(Welcome(1, -2 * delay_s, 0.0, 16, 10**7), 0.0)

    def at(self, instant: float, act: Callable[[float], None]) -> None:
        """Do *act* at *instant*."""
        self._count += 1
        heapq.heappush(self._events, (instant, self._count, act))

    def add(self, instant: float, one: CameraFrame) -> None:
        """Let the client have *one* at *instant*; the server begins its answer `answer_s` before the deadline."""
        self.at(instant, lambda now: self.dispatch.add(one))
        if one.due is not None:
            due = one.due
            self.at(due - self.answer_s, lambda now: self._answer(one.sequence, due))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._events and self._events[0][0] <= until:
            now, _, act = heapq.heappop(self._events)
            act(now)
            self.finished += self.dispatch.finished(now)
            while (message := self.dispatch.next_message(now)) is not None:
                self._carry(message, now)
            wake_at = max(self.dispatch.wake_at(now), now + 0.001)
            if not now < self._wake_at <= wake_at:
                self._wake_at = wake_at
                self.at(wake_at, lambda now: None)

    def _carry(self, message: Message, now: float) -> None:
        left, instant, step = float(len(write_message(message)) + HEADERS), max(now, self._free_at), 0.005
        while left > 0:
            carried = min(left, self.rate(instant) * step)
            instant += carried / self.rate(instant)
            left -= carried
        self._free_at = instant
        self.at(instant + self.delay_s, lambda now: self._arrives(message, now))

    def _arrives(self, message: Message, now: float) -> None:
        if isinstance(message, Frame):
            self.held.setdefault(message.sequence, 0)
            self.sizes[message.sequence] = message.size
            self._say(Ack(message.sequence, self.held[message.sequence]), now)
        elif isinstance(message, Chunk):
            assert message.offset <= self.held[message.sequence], "a gap"
            if message.sequence in self.used:
                self.late_bytes += len(message.data)
            self.held[message.sequence] = max(self.held[message.sequence], message.offset + len(message.data))
            self._say(Ack(message.sequence, self.held[message.sequence]), now)
        elif isinstance(message, Clock):
            self._say(Clock(message.sent_s, now), now)
        else:
            assert isinstance(message, End)
            self._answer(message.sequence, now)

    def _answer(self, sequence: int, now: float) -> None:
        if sequence in self.held and sequence not in self.used:
            self.used[sequence] = self.held[sequence]
            self._say(Result(sequence, "ok", self.held[sequence], 1.0, 9, 1.0, True), now)

    def _say(self, message: Message, now: float) -> None:
        self.at(now + self.delay_s, lambda now: self.dispatch.receive(message, now))
