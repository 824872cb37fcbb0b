"""What the soak calls growth; the soak itself takes half an hour and real processes."""

from __future__ import annotations

import pytest
from soak import Sample, growth_of


def samples(memory: list[float], handles: int = 20) -> list[Sample]:
    return [Sample(5.0 * number, value, handles, 9, 1.0) for number, value in enumerate(memory)]


def test_memory_that_rises_only_in_the_first_half_does_not_grow() -> None:
    """A cache that fills takes what it may, and noise is no growth."""
    found = growth_of("cache", samples([100.0 + min(n, 170) + n % 7 for n in range(360)]))
    assert found.grows == ()
    assert abs(found.memory_mb_per_hour) < 5


def test_a_leak_of_a_kilobyte_a_frame_is_found() -> None:
    """Of five frames a second, among peaks of thirty megabytes: 9 MB in half an hour. Half of it is not."""
    leak = [150.0 + 0.025 * n + (30 if n % 10 == 0 else 0) for n in range(360)]  # 5 s from one to the next
    found = growth_of("leak", samples(leak), frames=9000)
    assert found.grows == ("memory",)
    assert found.memory_mb_per_hour == pytest.approx(18, abs=0.5)
    assert found.found_kb_per_frame == 0.75
    assert growth_of("half of it", samples([150.0 + 0.0125 * n for n in range(360)]), frames=9000).grows == ()


def test_a_step_is_no_leak() -> None:
    """What is taken once, even late, is not taken again and again."""
    assert growth_of("step", samples([150.0 + (8 if n > 300 else 0) + n % 3 / 10 for n in range(360)])).grows == ()


def test_without_frames_nothing_is_said_of_them() -> None:
    assert growth_of("idle", samples([150.0] * 360)).found_kb_per_frame is None


def test_a_peak_is_no_leak() -> None:
    """Memory that comes back was not lost."""
    assert growth_of("peak", samples([150.0] * 300 + [400.0] * 20 + [150.0] * 40)).grows == ()


def test_handles_that_are_never_closed_are_found() -> None:
    """One every half minute."""
    leaking = [Sample(5.0 * n, 100.0, 20 + n // 6, 9, 1.0) for n in range(360)]
    assert growth_of("handles", leaking).grows == ("handles",)
