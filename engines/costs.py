"""Measured costs of stages: what a scheduler may assume of the next run.

A cost is kept per stage and picture size as its most recent durations. An estimate is a high quantile of them, which
one stall does not move, or what the last few took, which follows a machine that becomes busy at once. Sizes never seen
are scaled by pixels from the nearest size that was. What an earlier process saved counts until this one has measured
enough itself: the machine may have been busier then. A first measurement counts only until there is a second: first
runs allocate.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from bisect import bisect_left, insort
from collections import deque
from pathlib import Path
from threading import Lock

_KEPT = 200  # runs
_LATEST = 8  # runs that show whether the machine has become busy: the second slowest of them counts
_ENOUGH = 20  # own measurements that outweigh saved ones
_SIZES = 64  # of a stage; the one that was not measured for longest is forgotten, as senders choose sizes


def cache_folder() -> Path:
    """Return cutoff's folder for files that can be made again: CUTOFF_CACHE, or the user's cache folder."""
    own = os.environ.get("CUTOFF_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cutoff"


class _Durations:
    """The most recent durations of a stage, in order of time and of length."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._ordered: list[float] = []
        self.runs = 0  # all that were ever measured

    def add(self, seconds: float) -> None:
        if self.runs == 1:  # the first one was provisional
            self._recent.clear()
            self._ordered.clear()
        elif len(self._recent) == _KEPT:
            del self._ordered[bisect_left(self._ordered, self._recent.popleft())]
        self.runs += 1
        self._recent.append(seconds)
        insort(self._ordered, seconds)

    @property
    def median(self) -> float:
        return self._ordered[len(self._ordered) // 2]

    @property
    def tail(self) -> float:
        """What a run may take: as slow as the second slowest of the last few, or as hardly any of all that are kept."""
        count = len(self._ordered)
        if count < _LATEST:
            return self._ordered[-1]
        latest = sorted(list(self._recent)[-_LATEST:])[-2]
        return max(latest, self._ordered[min(count - 2, math.ceil(0.99 * count) - 1)])


class Costs:
    """Durations by stage and picture size (pixels after padding). Any thread may use it."""

    def __init__(self) -> None:
        self._measured: dict[str, dict[int, _Durations]] = {}
        self._saved: dict[str, dict[int, float]] = {}
        self._lock = Lock()

    def record(self, stage: str, pixels: int, seconds: float) -> None:
        """Note that *stage* took *seconds* on a picture of *pixels*."""
        with self._lock:
            sizes = self._measured.setdefault(stage, {})
            durations = sizes.pop(pixels, None) or _Durations()
            durations.add(seconds)
            sizes[pixels] = durations  # the last one now
            if len(sizes) > _SIZES:
                del sizes[next(iter(sizes))]

    def estimate_s(self, stage: str, pixels: int) -> float:
        """Return what *stage* may take on a picture of *pixels*; 0.0 if it was never measured on any."""
        with self._lock:
            return self._estimate_s(stage, pixels)

    def _estimate_s(self, stage: str, pixels: int) -> float:
        measured, saved = self._measured.get(stage, {}), self._saved.get(stage, {})
        sizes = measured.keys() | saved.keys()
        if not sizes:
            return 0.0
        nearest = min(sizes, key=lambda size: (abs(size - pixels), size))
        own = measured.get(nearest)
        known = 0.0 if own is None else own.tail
        if own is None or own.runs < _ENOUGH:
            known = max(known, saved.get(nearest, 0.0))
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

    def knows(self, stage: str, pixels: int) -> bool:
        """True if *stage* was measured on pictures of exactly *pixels*."""
        return self.runs(stage, pixels) > 0

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
                stage: {
                    str(pixels): round(self._estimate_s(stage, pixels), 7)
                    for pixels in sorted(self._measured.get(stage, {}).keys() | self._saved.get(stage, {}).keys())
                }
                for stage in sorted(self._measured.keys() | self._saved.keys())
            }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
                json.dump(content, file)
            os.replace(file.name, path)
        except OSError:
            return
