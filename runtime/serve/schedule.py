"""When a worker must begin what: latest starts, computed backwards from deadlines, and whether one more still fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Job(NamedTuple):
    """Work that must be done by an instant.

    Attributes:
        due: instant, in seconds.
        cost: seconds of one worker.
    """

    due: float
    cost: float


def latest_start(jobs: Sequence[Job]) -> float:
    """Return the latest instant at which one worker can begin *jobs* and still keep every one's instant.

    The jobs run by rising `due`; no other order keeps more. Infinite without jobs.
    """
    start = math.inf
    for due, cost in sorted(jobs, reverse=True):
        start = min(start, due) - cost
    return start


def overload_s(jobs: Sequence[Job], now: float) -> float:
    """Return by how many seconds *jobs* are too much for one worker that begins *now*; 0.0 if they are not."""
    start = latest_start(jobs)
    return max(0.0, now - start) if math.isfinite(start) else 0.0
