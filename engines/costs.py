"""Measured costs of stages: what a scheduler may assume of the next run.

A cost is kept per stage and picture size as its most recent durations; an estimate is their maximum, so that about one
run in a hundred takes longer. Sizes never seen are scaled by pixels from the nearest size that was. What an earlier
process saved counts until this one has measured enough itself: the machine may have been busier then. A first
measurement counts only until there is a second: first runs allocate.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections import deque
from pathlib import Path

_KEPT = 100
_ENOUGH = 4  # own measurements that outweigh saved ones


def cache_folder() -> Path:
    """Return cutoff's folder for files that can be made again: CUTOFF_CACHE, or the user's cache folder."""
    own = os.environ.get("CUTOFF_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cutoff"


class Costs:
    """Durations by stage and picture size (pixels after padding)."""

    def __init__(self) -> None:
        self._recent: dict[str, dict[int, deque[float]]] = {}
        self._saved: dict[str, dict[int, float]] = {}
        self._provisional: set[tuple[str, int]] = set()  # measured once so far

    def record(self, stage: str, pixels: int, seconds: float) -> None:
        """Note that *stage* took *seconds* on a picture of *pixels*."""
        durations = self._recent.setdefault(stage, {}).setdefault(pixels, deque(maxlen=_KEPT))
        if (stage, pixels) in self._provisional:
            self._provisional.remove((stage, pixels))
            durations.clear()
        elif not durations:
            self._provisional.add((stage, pixels))
        durations.append(seconds)

    def estimate_s(self, stage: str, pixels: int) -> float:
        """Return what *stage* may take on a picture of *pixels*; 0.0 if it was never measured on any."""
        recent, saved = self._recent.get(stage, {}), self._saved.get(stage, {})
        sizes = recent.keys() | saved.keys()
        if not sizes:
            return 0.0
        nearest = min(sizes, key=lambda size: (abs(size - pixels), size))
        measured = recent.get(nearest, ())
        known = max(measured, default=0.0)
        if len(measured) < _ENOUGH:
            known = max(known, saved.get(nearest, 0.0))
        return known * max(1.0, pixels / nearest)

    def knows(self, stage: str, pixels: int) -> bool:
        """True if *stage* was measured on pictures of exactly *pixels*."""
        return pixels in self._recent.get(stage, {})

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
        stages = self._recent.keys() | self._saved.keys()
        content = {
            stage: {
                str(pixels): round(self.estimate_s(stage, pixels), 7)
                for pixels in sorted(self._recent.get(stage, {}).keys() | self._saved.get(stage, {}).keys())
            }
            for stage in sorted(stages)
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
                json.dump(content, file)
            os.replace(file.name, path)
        except OSError:
            return
