"""What the soak calls growth; the soak itself takes half an hour and real processes."""

from __future__ import annotations

from soak import Sample, growth_of


def samples(memory: list[float], handles: int = 20) -> list[Sample]:
    return [Sample(5.0 * number, value, handles, 9, 1.0) for number, value in enumerate(memory)]


def test_memory_that_rises_only_at_first_does_not_grow() -> None:
    """The warm-up is left out, and noise is no growth."""
    found = growth_of("steady", samples([100.0 + min(n, 60) + n % 7 for n in range(360)]))
    assert found.grows == ()
    assert abs(found.memory_mb_per_hour) < 5


def test_a_leak_is_found() -> None:
    """A megabyte a minute shows in half an hour, among peaks of thirty."""
    found = growth_of("leak", samples([150.0 + n / 12 + (30 if n % 10 == 0 else 0) for n in range(360)]))
    assert found.grows == ("memory",)
    assert 55 < found.memory_mb_per_hour < 65


def test_a_peak_is_no_leak() -> None:
    """Memory that comes back was not lost."""
    assert growth_of("peak", samples([150.0] * 300 + [400.0] * 20 + [150.0] * 40)).grows == ()


def test_handles_that_are_never_closed_are_found() -> None:
    """One every half minute."""
    leaking = [Sample(5.0 * n, 100.0, 20 + n // 6, 9, 1.0) for n in range(360)]
    assert growth_of("handles", leaking).grows == ("handles",)
