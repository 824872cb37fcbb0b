"""Deadlines: instants on the monotonic clock by which a picture must be finished."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """An instant on `time.monotonic()`'s clock, in seconds."""

    instant: float

    @classmethod
    def after_ms(cls, milliseconds: float) -> Deadline:
        """Return the deadline *milliseconds* from now."""
        return cls(time.monotonic() + milliseconds / 1000)

    def left_s(self) -> float:
        """Return the seconds left; negative when the deadline has passed."""
        return self.instant - time.monotonic()
