"""How large a picture may be encoded so that its stream is there in time: by measured times of each size."""

from __future__ import annotations

from collections import deque

SCALES = (1.0, 0.7071, 0.5, 0.3536, 0.25)  # of both sides: each half the pixels of the one before
_KEPT = 16
_MEMORY_S = 30.0  # a machine that was busy then may be idle now
_PROBE_EVERY = 10  # skipped pictures after which one is encoded all the same, as small as possible


class EncodeBudget:
    """Learns what encoding takes and picks a scale. Times are seconds; nothing here looks at a clock."""

    def __init__(self) -> None:
        self._measured: dict[float, deque[tuple[float, float]]] = {}  # scale -> (instant, seconds)
        self._skipped = 0

    def scale(self, now: float, left_s: float) -> float | None:
        """Return the largest scale that takes at most *left_s*; None if the picture should be skipped."""
        for scale in SCALES:
            if self.expected_s(scale, now) <= left_s:
                self._skipped = 0
                return scale
        self._skipped += 1
        return SCALES[-1] if self._skipped % _PROBE_EVERY == 0 else None

    def took(self, now: float, scale: float, seconds: float) -> None:
        """Note that encoding at *scale* took *seconds*. A first run allocates, and is not counted."""
        if scale not in self._measured:
            self._measured[scale] = deque(maxlen=_KEPT)
            return
        self._measured[scale].append((now, seconds))

    def expected_s(self, scale: float, now: float) -> float:
        """Return what encoding at *scale* may take: nine in ten took less lately; 0.0 if nothing is known.

        A scale that was not measured lately is derived, by pixels, from the nearest that was.
        """
        recent = {
            known: sorted(seconds for at, seconds in measured if at >= now - _MEMORY_S)
            for known, measured in self._measured.items()
        }
        known = [one for one, durations in recent.items() if durations]
        if not known:
            return 0.0
        nearest = min(known, key=lambda one: (abs(one - scale), one))
        durations = recent[nearest]
        return durations[(9 * (len(durations) - 1) + 5) // 10] * (scale / nearest) ** 2
