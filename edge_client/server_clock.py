"""The server's clock, as the client knows it: FORMAT.md, section 19."""

from __future__ import annotations

from collections import deque

_KEPT_S = 600.0  # clocks drift by some ten parts in a million: milliseconds in this time


class ServerClock:
    """Keeps the exchange with the shortest round trip."""

    def __init__(self) -> None:
        self._exchanges: deque[tuple[float, float, float]] = (
            deque()
        )  # (instant, round trip, offset), round trips rising

    def exchange(self, sent_s: float, at_s: float, now: float) -> float:
        """Note that the server's clock read *at_s* between *sent_s* and *now* of ours; return the round trip."""
        round_trip_s = max(now - sent_s, 0.0)
        while self._exchanges and self._exchanges[-1][1] >= round_trip_s:
            self._exchanges.pop()
        self._exchanges.append((now, round_trip_s, at_s - (sent_s + now) / 2))
        while self._exchanges[0][0] < now - _KEPT_S:
            self._exchanges.popleft()
        return round_trip_s

    def at(self, now: float) -> float | None:
        """Return what the server's clock reads at *now* of ours; None if nothing is known of it."""
        return now + self._exchanges[0][2] if self._exchanges else None

    def lost(self) -> None:
        """Forget all: the next server, or the same after a restart, has another clock."""
        self._exchanges.clear()
