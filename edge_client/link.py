"""What the link carries, from acknowledgements alone: delivered rate, round trip, and how much more may be out.

A socket's buffer takes bytes long before anybody has them, so it tells nothing. The server acknowledges what it holds;
between a chunk's departure and its acknowledgement others were acknowledged, and that many bytes in that time is what
the link carried. All functions take the time: nothing here looks at a clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_MEMORY_S = 1.0  # how long a measured rate counts: links of vehicles and phones change within seconds
_ROUND_TRIPS = 8  # of chunks that met no other: the shortest of the last so many counts
_DRAIN_EVERY_S = 10.0  # after so long without such a chunk, the link is let run dry once
_SHORTEST_S = 1e-4
_BUSY_S = (0.1, 0.25)  # of acknowledgements without a gap: how long a run must be, and how much of it counts
_BUSY_ACKNOWLEDGEMENTS = 4
_FADING = 0.98  # of the best rate, for each that was measured since
_MANY = 2**53


@dataclass(frozen=True)
class _Chunk:
    """A chunk on its way; what was known when it left."""

    sequence: int
    end: int  # offset in the stream behind its last byte
    size: int
    sent_at: float
    delivered: int
    delivered_at: float
    pausing: bool  # the sender had nothing to send shortly before: the measured rate is a lower bound
    alone: bool  # nothing else was on its way


class Link:
    """Estimates of one link. Sizes are bytes of streams, times seconds on any one clock."""

    def __init__(self, rate: float = 32_000.0, round_trip_s: float = 0.1, queue_s: float = 0.1) -> None:
        """Begin with a guess.

        Args:
            rate: bytes per second, until something was measured.
            round_trip_s: of an empty link, until something was measured.
            queue_s: how long chunks may wait in the link's queues: enough that the link never runs dry between
                acknowledgements, not so much that a newer and better chunk has to wait behind them.
        """
        self._rate = rate
        self._best = 0.0  # rate of the busy link in its better moments; losses and stalls lower single measurements
        self._guess = round_trip_s
        self._queue_s = queue_s
        self._rates: deque[tuple[float, float]] = deque()  # (instant, rate), rates falling
        self._round_trips: deque[float] = deque(maxlen=_ROUND_TRIPS)
        self._alone_at: float | None = None  # when a chunk that was alone was acknowledged last
        self._chunks: deque[_Chunk] = deque()
        self._run: deque[tuple[float, int]] = deque()  # acknowledgements while the link was busy: (instant, delivered)
        self._delivered = 0
        self._delivered_at = 0.0
        self._pausing_until = 0  # delivered bytes up to which rates are lower bounds
        self.in_flight = 0

    @property
    def round_trip_s(self) -> float:
        """About that of an empty link.

        Ways change, and with them this time. A longer one is believed only of a chunk that met no other on its way:
        what waits behind others says nothing of the way.
        """
        return min(self._round_trips, default=self._guess)

    def rate(self, now: float) -> float:
        """Return the bytes per second that the link delivers.

        It is what the busy link delivered of late; while it is not busy, the highest rate measured within a second, as
        most measurements then see pauses of the sender. What has been on its way for too long lowers it at once.
        """
        if not self._chunks:
            return self._rate
        oldest = self._chunks[0]
        waited = now - max(oldest.sent_at, oldest.delivered_at) - self.round_trip_s
        carried = self._delivered - oldest.delivered + oldest.size
        return min(self._rate, carried / max(waited, _SHORTEST_S))

    def sent(self, now: float, sequence: int, end: int, size: int) -> None:
        """Note that a chunk of *size* bytes, which ends at offset *end* of frame *sequence*, leaves."""
        if not self._chunks:
            self._delivered_at = now
        alone = not self._chunks
        pausing = self._delivered < self._pausing_until or alone
        self._chunks.append(_Chunk(sequence, end, size, now, self._delivered, self._delivered_at, pausing, alone))
        self.in_flight += size

    def acknowledged(self, now: float, sequence: int, held: int) -> None:
        """Note that the server holds *held* bytes of frame *sequence*.

        What left before the last chunk that this tells of has arrived, too: the connection keeps the order.
        """
        position = next(
            (
                place
                for place in range(len(self._chunks) - 1, -1, -1)
                if self._chunks[place].sequence == sequence and self._chunks[place].end <= held
            ),
            None,
        )
        if position is None:
            return
        for _ in range(position + 1):
            last = self._chunks.popleft()
            self._delivered += last.size
            self.in_flight -= last.size
        busy = last.sent_at + self.round_trip_s <= self._delivered_at
        self._delivered_at = now
        elapsed = max(now - last.delivered_at, now - last.sent_at, _SHORTEST_S)
        seconds = now - last.sent_at
        if last.alone and self._best:  # on slow links much of it is the chunk's own passage
            seconds = max(seconds - last.size / max(self._best, self._rate), seconds / 4)
        self.round_trip(now, seconds, alone=last.alone)
        exact = self._busy_rate(now, busy)
        if exact is None:
            self._measured(now, (self._delivered - last.delivered) / elapsed, last.pausing)
        else:
            self._rates.clear()
            self._rates.append((now, exact))
            self._rate, self._best = exact, max(exact, _FADING * self._best)

    def round_trip(self, now: float, seconds: float, *, alone: bool = False) -> None:
        """Note that an answer came *seconds* after what it answers; *alone*: nothing else was on its way."""
        if alone:
            self._alone_at = now
        if alone or seconds < self.round_trip_s:
            self._round_trips.append(max(seconds, _SHORTEST_S))

    def abandoned(self, sequence: int) -> None:
        """Note that the server will not acknowledge what is on its way of frame *sequence*: it refused the frame."""
        self._forget([one for one in self._chunks if one.sequence == sequence])

    def passed(self, sent_at: float) -> None:
        """Note that the server has answered something that left at *sent_at*.

        The connection keeps the order: what left before has arrived, acknowledged or not, and waits for nothing more.
        """
        self._forget([one for one in self._chunks if one.sent_at < sent_at])

    def _forget(self, chunks: list[_Chunk]) -> None:
        if chunks:
            self._chunks = deque(one for one in self._chunks if one not in chunks)
            self.in_flight -= sum(one.size for one in chunks)
            self.pausing()  # how fast they went is not known

    def pausing(self) -> None:
        """Note that the sender has nothing to send although more might be out."""
        self._pausing_until = self._delivered + self.in_flight

    def room(self, now: float, least: int = 0) -> int:
        """Return how many bytes more may be out: what the link delivers in a round trip, and a queue; negative if none.

        The queue is also what finds out that a link carries more than was tried: chunks that need not wait there are
        measured at a higher rate.

        Args:
            least: bytes that may always be out, so that something is measured.
        """
        if self.in_flight and self._alone_at is not None and now - self._alone_at > _DRAIN_EVERY_S:
            return 0
        return int(max(self.rate(now) * (self.round_trip_s + self._queue_s), least)) - self.in_flight

    def in_time(self, now: float, arrive_by: float) -> int:
        """Return how many bytes that leave now will arrive by *arrive_by*, behind those that are out; 0 if none."""
        rate, round_trip_s = self.rate(now), self.round_trip_s
        queued = max(0.0, self.in_flight - rate * round_trip_s)
        return int(max(0.0, min(rate * (arrive_by - now - round_trip_s / 2) - queued, _MANY)))

    def lost(self) -> None:
        """Forget what was on its way: the connection is gone. The rate stays as a guess for the next."""
        self._chunks.clear()
        self._run.clear()
        self._rates.clear()
        self._round_trips.clear()
        self._alone_at = None
        self._delivered = self._pausing_until = self.in_flight = 0

    def _busy_rate(self, now: float, busy: bool) -> float | None:
        """Return the rate while the link was busy; None if it may have been idle lately.

        It was busy between two acknowledgements if the second chunk had left early enough to be waiting at the first.
        What it delivered then is all that it could: a link that got slower shows at once.
        """
        if not busy:
            self._run.clear()
        self._run.append((now, self._delivered))
        while len(self._run) > _BUSY_ACKNOWLEDGEMENTS and self._run[1][0] <= now - _BUSY_S[1]:
            self._run.popleft()
        begin, delivered = self._run[0]
        if len(self._run) < _BUSY_ACKNOWLEDGEMENTS or now - begin < _BUSY_S[0]:
            return None
        return (self._delivered - delivered) / (now - begin)

    def _measured(self, now: float, rate: float, pausing: bool) -> None:
        while self._rates and self._rates[0][0] < now - _MEMORY_S:
            self._rates.popleft()
        if pausing and rate < self._rate:
            return
        while self._rates and self._rates[-1][1] <= rate:
            self._rates.pop()
        self._rates.append((now, rate))
        self._rate = self._rates[0][1]
