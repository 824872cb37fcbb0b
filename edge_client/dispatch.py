"""The conversation with the server, without a wire: what to say next, and what its messages mean. Looks at no clock.

    add(frame)     →  waiting  →  Frame  →  chunks, as `schedule` picks them  →  End  →  Result  →  Finished
    connected, lost, receive(message)

`transport` carries messages, `client` decides what becomes of frames that are finished.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from edge_client.answer_time import AnswerTime
from edge_client.frames import CameraFrame
from edge_client.link import Link
from edge_client.schedule import Flight, Pace, next_piece, too_late
from edge_client.server_clock import ServerClock
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

_GRACE_S = 2.0  # after the deadline, for an answer on its way back
_CLOCK_EVERY_S = 10.0
_PATIENCE_S = 30.0  # for the answer to a frame without a deadline
_SPOOLED = 2  # frames without a deadline under way: the next is at hand while the last is answered


@dataclass(frozen=True)
class Finished:
    """A camera frame that dispatch has done with.

    Attributes:
        held: bytes of it that the server said it has.
        held_before: what it was said to have before.
        enough: the server wants no more of it.
        result: the server's answer; None if there was none.
        why: "answered"; "late" if its deadline passed before it could be sent or answered; "displaced" by newer ones;
            "refused" by a fault of the server; "lost" with the connection.
        answered_at: instant at which the answer came.
    """

    frame: CameraFrame
    held: int
    enough: bool
    result: Result | None
    why: str
    held_before: int = 0
    answered_at: float | None = None


class Dispatch:
    """All camera frames that are on their way over one connection after another."""

    def __init__(self, link: Link, pace: Pace, frames: int, frame_bytes: int | None = None) -> None:
        """Begin unconnected.

        Args:
            frames: how many camera frames with a deadline may be sent at a time; the server may allow fewer.
            frame_bytes: budget of a camera frame with a deadline, in bytes; None for whole streams.
        """
        self.link = link
        self.server_clock = ServerClock()
        self._pace = pace
        self.answer_time = AnswerTime(pace.answer_s)
        self._frames = frames
        self._frame_bytes = frame_bytes
        self._welcome: Welcome | None = None
        self._flights: dict[int, Flight] = {}
        self._refused_until = 0.0
        self._clock_at = 0.0
        self._done: list[Finished] = []
        self.bytes_sent = 0

    @property
    def online(self) -> bool:
        """The server has welcomed us, and the connection stands."""
        return self._welcome is not None

    @property
    def live(self) -> int:
        """Camera frames with a deadline that are not finished."""
        return sum(flight.live for flight in self._flights.values())

    @property
    def under_way(self) -> frozenset[int]:
        """Sequence numbers of all that is not finished."""
        return frozenset(self._flights)

    def spare(self) -> int:
        """Return how many camera frames without a deadline may be added."""
        if self._welcome is None:
            return 0
        kept_free = max(self.live, min(self._frames, self._welcome.frames - 1))
        return max(0, min(_SPOOLED, self._welcome.frames - kept_free) - (len(self._flights) - self.live))

    def add(self, frame: CameraFrame, limit: int | None = None, *, known: int | None = None) -> None:
        """Take *frame*; of those with a deadline that are not opened, the oldest give way where there are too many.

        Args:
            limit: bytes of it that may be sent, where they are fewer than the budget.
            known: of a frame that the server may have met already: how many bytes of it were stored.
        """
        if frame.sequence in self._flights:
            return
        most = len(frame.stream)
        if frame.due is not None and self._frame_bytes is not None:
            most = min(most, max(self._frame_bytes, frame.worth.first))
        flight = Flight(
            frame, min(most, limit) if limit is not None else most, placed=known is None, held_before=known or 0
        )
        self._flights[frame.sequence] = flight
        if self._welcome is not None and len(frame.stream) > self._welcome.frame_bytes:
            self._finish(flight, "refused")
        waiting = sorted(one.frame.sequence for one in self._flights.values() if one.live and not one.opened)
        sending = sum(one.live and one.opened and not one.ended for one in self._flights.values())
        places = max(1, self._frames - sending)
        for sequence in waiting[:-places]:
            self._finish(self._flights[sequence], "displaced")

    def connected(self, welcome: Welcome, now: float) -> None:
        """Begin a connection that the server welcomed."""
        self._welcome = welcome
        self._clock_at = now + _CLOCK_EVERY_S
        self._refused_until = 0.0
        self.link.round_trip(now, self.server_clock.exchange(welcome.sent_s, welcome.at_s, now), alone=True)
        for flight in list(self._flights.values()):
            if len(flight.frame.stream) > welcome.frame_bytes:
                self._finish(flight, "refused")

    def lost(self, now: float) -> None:
        """End the connection: frames with time left wait for the next one, all others are finished."""
        self._welcome = None
        self.link.lost()
        self.server_clock.lost()
        for flight in list(self._flights.values()):
            if not flight.live or flight.enough or too_late(flight, self._pace, self.link, now):
                self._finish(flight, "lost")
            elif flight.opened:
                flight.opened = flight.placed = flight.ended = False
                flight.held = 0  # the next connection may lead to a server that knows nothing of it
                self.answer_time.forget(flight.frame.sequence)

    def close(self) -> None:
        """Finish everything that is still under way."""
        for flight in list(self._flights.values()):
            self._finish(flight, "lost")

    def finished(self, now: float) -> list[Finished]:
        """Return the frames that are finished since the last call; those whose time has run out are among them."""
        for flight in list(self._flights.values()):
            due, active_at = flight.frame.due, flight.active_at
            if due is not None:
                unsent = not flight.opened and too_late(flight, self._pace, self.link, now)
                if unsent or now > due + _GRACE_S + self.link.round_trip_s:
                    self._finish(flight, "late")
            elif flight.ended and active_at is not None and now > active_at + _PATIENCE_S:
                self._finish(flight, "late")
        done, self._done = self._done, []
        return done

    def receive(self, message: Message, now: float) -> None:
        """Act on what the server sent.

        Raises:
            ProtocolError: it is nothing that a server says then.
        """
        if isinstance(message, Ack):
            self._acknowledged(message, now)
        elif isinstance(message, Enough):
            flight = self._flights.get(message.sequence)
            if flight is not None:
                flight.enough = flight.ended = True
        elif isinstance(message, Result):
            answered = self._flights.get(message.sequence)
            if answered is not None and answered.opened:
                frame = answered.frame
                if frame.due is not None and not answered.enough:
                    most_s = (frame.due - frame.taken) / 2
                    self.answer_time.answered(frame.sequence, message.bytes, frame.due, most_s)
                    self._pace = replace(self._pace, answer_s=self.answer_time.seconds)
                self._finish(answered, "answered", message, now)
        elif isinstance(message, Clock):
            if message.at_s is None:
                raise ProtocolError("clock.at_s is missing")
            self.link.round_trip(now, self.server_clock.exchange(message.sent_s, message.at_s, now))
            self.link.passed(message.sent_s)
        elif isinstance(message, Fault) and message.sequence is not None:
            self._refused_until = now + (message.retry_after_s or 0.0)
            self.link.abandoned(message.sequence)
            refused = self._flights.get(message.sequence)
            if refused is not None:
                self._finish(refused, "refused")
        elif not isinstance(message, Fault):
            raise ProtocolError(f"a server does not send {type(message).__name__.lower()}")

    def next_message(self, now: float) -> Message | None:
        """Return what to send now; None if there is nothing until a message comes or `wake_at` has come."""
        if self._welcome is None:
            return None
        if now >= self._clock_at:
            self._clock_at = now + _CLOCK_EVERY_S
            return Clock(now)
        for flight in self._flights.values():
            if flight.opened and flight.placed and not flight.ended and self._exhausted(flight, now):
                flight.ended = True
                if flight.sent < len(flight.frame.stream):
                    return End(flight.frame.sequence, flight.sent)
        unplaced = self._to_open(now)
        if unplaced is not None:
            return self._open(unplaced, now)
        piece = next_piece(self._sendable(now), self._pace, self.link, now)
        if piece is None:
            if self.link.room(now) > 0:
                self.link.pausing()
            return None
        if not piece.flight.opened:
            return self._open(piece.flight, now)
        return self._chunk(piece.flight, piece.size, now)

    def wake_at(self, now: float) -> float:
        """Return the instant at which there may be something to say although no message came."""
        instants = [self._clock_at if self.online else now + _CLOCK_EVERY_S]
        for flight in self._flights.values():
            due = flight.frame.due
            if due is not None:
                latest = due - self._pace.answer_s - self.link.round_trip_s / 2
                instants.append(latest if now < latest else due + _GRACE_S + self.link.round_trip_s)
        if now < self._refused_until:
            instants.append(self._refused_until)
        return max(min(instants), now)

    def _exhausted(self, flight: Flight, now: float) -> bool:
        return flight.sent >= flight.limit or too_late(flight, self._pace, self.link, now)

    def _sendable(self, now: float) -> Iterable[Flight]:
        """Return the flights of which bytes may be sent, opened or not."""
        assert self._welcome is not None
        opened = [flight for flight in self._flights.values() if flight.opened]
        if len(opened) >= self._welcome.frames or now < self._refused_until:
            return opened
        full = sum(flight.live and not flight.ended for flight in opened) >= self._frames
        return [flight for flight in self._flights.values() if flight.opened or not (flight.live and full)]

    def _to_open(self, now: float) -> Flight | None:
        """Return a frame that the server may know and that has to be opened to learn what it holds."""
        for flight in self._sendable(now):
            if not flight.opened and not flight.placed:
                return flight
        return None

    def _open(self, flight: Flight, now: float) -> Frame:
        flight.opened, flight.active_at = True, now
        frame = flight.frame
        return Frame(
            sequence=frame.sequence,
            size=len(frame.stream),
            at_s=self.server_clock.at(now),
            deadline_s=None if frame.due is None else max(frame.due - now, 0.0),
            captured=frame.captured,
        )

    def _chunk(self, flight: Flight, size: int, now: float) -> Chunk:
        begin, flight.sent, flight.active_at = flight.sent, flight.sent + size, now
        self.link.sent(now, flight.frame.sequence, flight.sent, size)
        self.bytes_sent += size
        return Chunk(flight.frame.sequence, begin, flight.frame.stream[begin : flight.sent])

    def _acknowledged(self, ack: Ack, now: float) -> None:
        self.link.acknowledged(now, ack.sequence, ack.bytes)
        flight = self._flights.get(ack.sequence)
        if flight is None or not flight.opened:
            return
        flight.held = max(flight.held, min(ack.bytes, len(flight.frame.stream)))
        if not flight.placed:
            flight.placed, flight.sent = True, flight.held
            if flight.active_at is not None:
                self.link.round_trip(now, now - flight.active_at)
        flight.active_at = now
        if flight.live:
            self.answer_time.arrived(ack.sequence, flight.held, now - self.link.round_trip_s / 2)

    def _finish(self, flight: Flight, why: str, result: Result | None = None, now: float | None = None) -> None:
        del self._flights[flight.frame.sequence]
        self.answer_time.forget(flight.frame.sequence)
        self._done.append(Finished(flight.frame, flight.held, flight.enough, result, why, flight.held_before, now))
