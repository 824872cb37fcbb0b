"""The time that work on one stream takes: by stage, within its limit, told to the cost model; and its early end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engines.costs import Costs
from runtime.deadline import Clock
from runtime.errors import Cancelled, LimitExceeded


class Stopwatch:
    """Counts the calls from outside as work (`working`), and what they do by stage (`timed`).

    Attributes:
        seconds: by stage, and in all ("total").
        pixels: of the padded picture, once they are known; the cost model is told nothing before.
        cancelled: work ends at the next `check`.
    """

    def __init__(self, clock: Clock, costs: Costs, limit_s: float) -> None:
        self.clock, self._costs, self._limit_s = clock, costs, limit_s
        self.seconds: dict[str, float] = {}
        self.pixels: int | None = None
        self.cancelled = False
        self._began: float | None = None  # the call from outside that is under way

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the block, a call from outside, as work on this stream.

        Raises:
            Cancelled: the decoder was cancelled.
        """
        self._began = began = self.clock()
        try:
            if self.cancelled:
                raise Cancelled("decoding was cancelled")
            yield
        finally:
            self.add("total", self.clock() - began)
            self._began = None

    @property
    def busy(self) -> bool:
        """A call from outside is under way."""
        return self._began is not None

    def check(self) -> None:
        """End work that may not go on.

        Raises:
            Cancelled: the decoder was cancelled.
            LimitExceeded: all calls together have taken longer than the limit.
        """
        if self.cancelled:
            raise Cancelled("decoding was cancelled")
        spent = self.seconds.get("total", 0.0)
        if self._began is not None:
            spent += self.clock() - self._began
        if spent > self._limit_s:
            raise LimitExceeded(f"decoding has taken {spent:.3g} s; allowed: {self._limit_s:g}")

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to `seconds`, and tell the cost model; a block that raises counts not."""
        started = self.clock()
        yield
        seconds = self.clock() - started
        self.add(stage, seconds)
        self.record(stage, seconds)

    @contextmanager
    def measured(self, stages: str) -> Iterator[None]:
        """Tell the cost model what the block takes in which *stages* run one after the other."""
        started = self.clock()
        yield
        self.record(stages, self.clock() - started)

    def add(self, stage: str, seconds: float) -> None:
        """Count *seconds* as time of *stage*."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def record(self, stage: str, seconds: float) -> None:
        """Tell the cost model that *stage* took *seconds*."""
        if self.pixels is not None:
            self._costs.record(stage, self.pixels, seconds)
