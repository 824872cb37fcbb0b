"""Which chunk is sent next: the one that is worth most per byte and still arrives in time. Pure logic, no clock.

Frames with a deadline go first; those without one, from the spool, fill what they leave. Of equally valuable chunks
the newest frame's is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge_client.frames import CameraFrame
from edge_client.link import Link

_SMALLEST = 512  # bytes of a chunk on slow links: below, headers would cost too much
_CRUMB = 128  # bytes that are not worth a message of their own, unless they are the last


@dataclass
class Flight:
    """A camera frame on its way.

    Attributes:
        frame: what is sent.
        limit: bytes of its stream that may be sent, at most.
        sent: bytes of it that left over this connection, or were held before.
        held: bytes that the server said it has.
        held_before: bytes that it was known to have when the frame was taken.
        opened: `Frame` was sent over this connection.
        placed: it is known where to go on: the server has nothing, or said what it holds.
        ended: nothing more will be sent: all is, or `End` was sent, or the server has enough.
        enough: the server said so.
        active_at: instant at which it was opened, or a chunk of it left or arrived.
    """

    frame: CameraFrame
    limit: int
    sent: int = 0
    held: int = 0
    held_before: int = 0
    opened: bool = False
    placed: bool = True
    ended: bool = False
    enough: bool = False
    active_at: float | None = None

    @property
    def live(self) -> bool:
        """It has a deadline."""
        return self.frame.due is not None


@dataclass(frozen=True)
class Piece:
    """The bytes to send next."""

    flight: Flight
    size: int


@dataclass(frozen=True)
class Pace:
    """How finely and how early bytes are sent.

    Attributes:
        chunk_bytes: largest chunk.
        answer_s: time that the server needs between the last byte that counts and its deadline.
        queue_s: see `Link`.
    """

    chunk_bytes: int = 1400
    answer_s: float = 0.06
    queue_s: float = 0.1

    def piece_bytes(self, rate: float) -> int:
        """Return the size of a chunk on a link of *rate* bytes per second: small enough that another may overtake."""
        return min(self.chunk_bytes, max(_SMALLEST, int(rate * self.queue_s / 2)))

    def arrive_by(self, flight: Flight) -> float | None:
        """Return by when a byte must arrive to count; None without a deadline."""
        return None if flight.frame.due is None else flight.frame.due - self.answer_s


def too_late(flight: Flight, pace: Pace, link: Link, now: float) -> bool:
    """True if nothing that is sent now could arrive in time."""
    by = pace.arrive_by(flight)
    return by is not None and now + link.round_trip_s / 2 >= by


def next_piece(flights: Iterable[Flight], pace: Pace, link: Link, now: float) -> Piece | None:
    """Return what to send next; None if nothing fits: nothing is left, or the link carries no more in time."""
    rate = link.rate(now)
    most = pace.piece_bytes(rate)
    best: tuple[tuple[bool, float, int], Piece] | None = None
    for flight in flights:
        if flight.ended or not flight.placed or flight.sent >= flight.limit:
            continue
        size = _size(flight, pace, link, now, most)
        if size > 0:
            rank = (flight.live, flight.frame.worth.at(flight.sent), flight.frame.sequence)
            if best is None or rank > best[0]:
                best = rank, Piece(flight, size)
    return best[1] if best else None


def _size(flight: Flight, pace: Pace, link: Link, now: float, most: int) -> int:
    """Return how many bytes of *flight* may leave now; 0 if none."""
    left = flight.limit - flight.sent
    wanted = min(most, left)
    by = pace.arrive_by(flight)
    room = link.room(now, least=2 * most)
    if by is None:
        # Half the window only: a frame with a deadline may come at any moment.
        return wanted if room - link.in_flight >= wanted or link.in_flight == 0 else 0
    if too_late(flight, pace, link, now):
        return 0
    if link.in_flight == 0:
        return wanted  # whatever the estimates say: they may be wrong, and only what is sent mends them
    in_time = link.in_time(now, by) if room > 0 else 0
    to_first = flight.frame.worth.first - flight.sent
    if to_first > 0:  # without the whole of it there is no picture
        return wanted if in_time >= min(to_first, left) else 0
    return min(wanted, in_time) if in_time >= min(wanted, _CRUMB) else 0
