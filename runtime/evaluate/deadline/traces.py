"""Arrival traces: when which bytes of a stream arrive, over links of different kinds.

All are drawn relative to the deadline, from a generator with a seed, so that every deadline meets links that are too
slow for it and links that are not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

PACKET_BYTES = 1200


@dataclass(frozen=True)
class Trace:
    """What has arrived when.

    Attributes:
        instants: seconds from the beginning, rising.
        received: bytes of the stream that are there from each of these instants on, rising.
    """

    instants: tuple[float, ...]
    received: tuple[int, ...]

    def at(self, instant: float) -> int:
        """Return how many bytes have arrived at *instant*."""
        place = bisect_right(self.instants, instant)
        return self.received[place - 1] if place else 0

    def after(self, received: int) -> float | None:
        """Return when more than *received* bytes will have arrived first; None if never."""
        place = bisect_right(self.received, received)
        return self.instants[place] if place < len(self.instants) else None


Draw = Callable[[int, float, np.random.Generator], Trace]


def constant(size: int, deadline_s: float, generator: np.random.Generator) -> Trace:
    """Packets at a steady rate; the last one after half the deadline to twice the deadline."""
    end = deadline_s * float(generator.uniform(0.5, 2.0))
    received = _packets(size)
    return Trace(tuple(end * (i + 1) / len(received) for i in range(len(received))), received)


def bursty(size: int, deadline_s: float, generator: np.random.Generator) -> Trace:
    """Two to eight bursts at any instants until 1.5 times the deadline, each with any number of packets."""
    received = _packets(size)
    bursts = min(int(generator.integers(2, 9)), len(received))
    ends = sorted(generator.choice(len(received) - 1, bursts - 1, replace=False).tolist()) if bursts > 1 else []
    instants = sorted(generator.uniform(0, 1.5 * deadline_s, bursts).tolist())
    return Trace(tuple(instants), tuple(received[end] for end in (*ends, len(received) - 1)))


def stalled(size: int, deadline_s: float, generator: np.random.Generator) -> Trace:
    """A steady rate that would be in time, but a pause of 0.3 to 1 times the deadline somewhere."""
    end = deadline_s * float(generator.uniform(0.3, 0.8))
    pause, first = deadline_s * float(generator.uniform(0.3, 1.0)), float(generator.uniform(0.1, 0.6))
    received = _packets(size)
    shares = [(i + 1) / len(received) for i in range(len(received))]
    return Trace(tuple(end * share + (pause if share > first else 0.0) for share in shares), received)


def cut_off(size: int, deadline_s: float, generator: np.random.Generator) -> Trace:
    """A steady rate, until nothing comes any more."""
    whole = constant(size, deadline_s, generator)
    kept = max(1, int(len(whole.instants) * generator.uniform(0.05, 0.9)))
    return Trace(whole.instants[:kept], whole.received[:kept])


TRACES: Mapping[str, Draw] = {"constant": constant, "bursty": bursty, "stalled": stalled, "cut off": cut_off}


def _packets(size: int) -> tuple[int, ...]:
    return tuple(min(size, end) for end in range(PACKET_BYTES, size + PACKET_BYTES, PACKET_BYTES))
