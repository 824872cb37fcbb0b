"""Latest starts: computed backwards, and right."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from runtime.serve.schedule import Job, latest_start, overload_s

JOBS = st.lists(st.builds(Job, st.integers(0, 50).map(float), st.integers(0, 9).map(float)), min_size=1, max_size=8)


def late(jobs: list[Job], start: float) -> bool:
    """Return whether one worker that begins then is late for any of *jobs*, done by rising deadline."""
    now = start
    for due, cost in sorted(jobs):
        now += cost
        if now > due:
            return True
    return False


@given(JOBS)
def test_the_latest_start_is_the_latest(jobs):
    """Beginning then keeps everything; a moment later does not."""
    start = latest_start(jobs)
    assert not late(jobs, start) and late(jobs, start + 0.5)


@given(JOBS, st.integers(0, 60).map(float))
def test_overload_is_what_the_beginning_comes_too_late(jobs, now):
    assert (overload_s(jobs, now) > 0) == late(jobs, now)


def test_nothing_to_do():
    assert latest_start([]) == math.inf and overload_s([], 5.0) == 0.0
