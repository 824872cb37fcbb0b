"""Deadlines: instants on the monotonic clock by which a picture must be finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]  # seconds that only rise; `time.monotonic`, or one that a test made up


@dataclass(frozen=True)
class Deadline:
    """An instant on `time.monotonic()`'s clock (or that of `Codec.open`), in seconds."""

    instant: float

    @classmethod
    def after_ms(cls, milliseconds: float, clock: Clock = time.monotonic) -> Deadline:
        """Return the deadline *milliseconds* from now."""
        return cls(clock() + milliseconds / 1000)

    def left_s(self, clock: Clock = time.monotonic) -> float:
        """Return the seconds left; negative when the deadline has passed."""
        return self.instant - clock()
