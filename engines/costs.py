"""Measured costs of stages: what a scheduler may assume of the next run.

A cost is kept per stage and picture size as its most recent durations, and estimated as a quantile of them: from what
all but one run in a thousand keep (TAIL) to what half of them do (HALF). One stall moves none; a machine that becomes
busy shows in the last few runs, which count at once. A stage that is left out because it seems too slow is doubted a
little more each time, until it is tried again. Sizes never seen are scaled by pixels from the nearest size that was.
What an earlier process saved counts until this one has measured enough itself: the machine may have been busier then.
A first measurement counts only until there is a second: first runs allocate.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from bisect import bisect_left, bisect_right, insort
from collections import deque
from pathlib import Path
from threading import Lock

TAIL, RARE, MOST, USUAL, HALF = 0.999, 0.99, 0.97, 0.9, 0.5  # shares of runs that are no slower
_OF_TAIL = {TAIL: 1.0, RARE: 0.95, MOST: 0.9, USUAL: 0.85, HALF: 0.8}  # where only the slowest is known
_KEPT = 200  # runs
_LATEST = 8  # runs that show whether the machine has become busy
_DOUBT = 0.995  # by which an estimate falls each time that the stage is left out for it
_CHANCE = 0.5  # of the fastest run known: with less time no doubt is reasonable
_ENOUGH = 4  # own measurements that outweigh saved ones
_SIZES = 64  # of a stage; the one that was not measured for longest is forgotten, as senders choose sizes
_AT_LEAST = 1.15  # times what a run was given that was ended: what it takes, if none is known that took longer


def cache_folder() -> Path:
    """Return cutoff's folder for files that can be made again: CUTOFF_CACHE, or the user's cache folder."""
    own = os.environ.get("CUTOFF_CACHE")
    if own:
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cutoff"
    except RuntimeError:  # a user without a home, as in a container
        return Path(tempfile.gettempdir()) / f"cutoff-{os.getuid()}"


class _Durations:
    """The most recent durations of a stage, in order of time and of length."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._ordered: list[float] = []
        self._trust = 1.0
        self.runs = 0  # all that were ever measured

    def add(self, seconds: float) -> None:
        if self._trust < 1.0 and seconds > self.share(MOST):
            self._trust = 1.0  # there was no reason to doubt
        if self.runs == 1:  # the first one was provisional
            self._recent.clear()
            self._ordered.clear()
        elif len(self._recent) == _KEPT:
            del self._ordered[bisect_left(self._ordered, self._recent.popleft())]
        self.runs += 1
        self._recent.append(seconds)
        insort(self._ordered, seconds)

    def add_ended(self, seconds: float) -> None:
        """Count a run that was ended after *seconds* as the median of those known that took longer.

        Counted as what it was given it would make runs seem faster the less time they are given.
        """
        longer = self._ordered[bisect_right(self._ordered, seconds) :]
        self.add(longer[len(longer) // 2] if longer else _AT_LEAST * seconds)

    def doubt(self, seconds: float) -> None:
        if seconds > _CHANCE * self._ordered[0]:
            self._trust *= _DOUBT

    @property
    def median(self) -> float:
        return self._quantile(0.5)

    def share(self, share: float) -> float:
        """Return the duration that *share* of all runs keep, by those that are kept and by the last few."""
        count = len(self._ordered)
        if count < _LATEST:
            return self._ordered[-1] * _OF_TAIL[share]
        latest = sorted(list(self._recent)[-_LATEST:])
        if share < TAIL:
            known = max(latest[_LATEST // 2], self._quantile(share))
            return known * self._trust if share < RARE else known
        # Two hundred runs do not show what one in a thousand takes. An exponential tail would grow to there from one in
        # a hundred by as much as from one in ten to one in a hundred; those of busy machines grow by more.
        hundredth = self._quantile(0.99)
        return max(latest[-2], hundredth + 2 * (hundredth - self._quantile(0.9)))

    def _quantile(self, share: float) -> float:
        """Return a quantile; never the slowest of all, which may have been a stall."""
        count = len(self._ordered)
        return self._ordered[min(max(0, count - 2), math.ceil(share * count) - 1)]


class Costs:
    """Durations by stage and picture size (pixels after padding). Any thread may use it."""

    def __init__(self) -> None:
        self._measured: dict[str, dict[int, _Durations]] = {}
        self._saved: dict[str, dict[int, float]] = {}
        self._lock = Lock()

    def record(self, stage: str, pixels: int, seconds: float) -> None:
        """Note that *stage* took *seconds* on a picture of *pixels*."""
        with self._lock:
            self._durations(stage, pixels).add(seconds)

    def record_ended(self, stage: str, pixels: int, seconds: float) -> None:
        """Note that *stage*, on a picture of *pixels*, was not over after *seconds*, when it was ended."""
        with self._lock:
            self._durations(stage, pixels).add_ended(seconds)

    def _durations(self, stage: str, pixels: int) -> _Durations:
        """Return what is known of *stage* on pictures of *pixels*, to add to it."""
        sizes = self._measured.setdefault(stage, {})
        durations = sizes.pop(pixels, None) or _Durations()
        sizes[pixels] = durations  # the last one now
        if len(sizes) > _SIZES:
            del sizes[next(iter(sizes))]
        return durations

    def doubt(self, stage: str, pixels: int, seconds: float) -> None:
        """Note that *stage* was left out on a picture of *pixels*, since *seconds* were too little for it."""
        with self._lock:
            own = self._measured.get(stage, {}).get(pixels)
            if own is not None:
                own.doubt(seconds)

    def estimate_s(self, stage: str, pixels: int, share: float = TAIL) -> float:
        """Return what *share* of runs of *stage* keep on a picture of *pixels*; 0.0 if it was never measured on any."""
        with self._lock:
            return self._estimate_s(stage, pixels, share)

    def _estimate_s(self, stage: str, pixels: int, share: float = TAIL) -> float:
        measured, saved = self._measured.get(stage, {}), self._saved.get(stage, {})
        sizes = measured.keys() | saved.keys()
        if not sizes:
            return 0.0
        nearest = min(sizes, key=lambda size: (abs(size - pixels), size))
        own = measured.get(nearest)
        known = 0.0 if own is None else own.share(share)
        if own is None or own.runs < _ENOUGH:
            known = max(known, saved.get(nearest, 0.0) * _OF_TAIL[share])
        return known * max(1.0, pixels / nearest)

    def typical_s(self, stage: str, pixels: int) -> float:
        """Return the median of what *stage* took on pictures of exactly *pixels*; 0.0 if it was never measured."""
        with self._lock:
            own = self._measured.get(stage, {}).get(pixels)
            return 0.0 if own is None else own.median

    def runs(self, stage: str, pixels: int) -> int:
        """Return how often *stage* was measured on pictures of exactly *pixels*, in this process."""
        with self._lock:
            own = self._measured.get(stage, {}).get(pixels)
            return 0 if own is None else own.runs

    def load(self, path: Path) -> None:
        """Take what was saved at *path*; a file that is missing or unreadable is nothing worse than no experience."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            self._saved = {
                str(stage): {int(pixels): float(seconds) for pixels, seconds in sizes.items()}
                for stage, sizes in content.items()
            }
            costs = [cost for sizes in self._saved.values() for cost in sizes.items()]
            if not all(pixels > 0 and 0.0 <= seconds < math.inf for pixels, seconds in costs):
                raise ValueError(f"{path}: no durations")
        except (OSError, ValueError, AttributeError, TypeError, OverflowError):
            self._saved = {}

    def save(self, path: Path) -> None:
        """Write the estimates to *path*, whole or not at all; a cache that cannot be written is left alone."""
        with self._lock:
            content = {
                stage: {str(pixels): round(self._estimate_s(stage, pixels), 7) for pixels in self._latest_sizes(stage)}
                for stage in sorted(self._measured.keys() | self._saved.keys())
            }
        partial = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
                partial = Path(file.name)
                json.dump(content, file)
            os.replace(partial, path)
        except OSError:
            if partial is not None:
                partial.unlink(missing_ok=True)

    def _latest_sizes(self, stage: str) -> list[int]:
        """Return the sizes to save of *stage*, in the order in which they were last measured, now or before."""
        measured = self._measured.get(stage, {})
        return [*(size for size in self._saved.get(stage, {}) if size not in measured), *measured][-_SIZES:]
