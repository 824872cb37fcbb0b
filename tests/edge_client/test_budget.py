"""How large a picture may be encoded."""

from __future__ import annotations

import pytest

from edge_client.budget import SCALES, EncodeBudget


def learned(full_s: float, now: float = 0.0) -> EncodeBudget:
    budget = EncodeBudget()
    for _ in range(5):
        budget.took(now, 1.0, full_s)
    return budget


def test_nothing_known_is_tried_in_full() -> None:
    """There is no other way to learn."""
    assert EncodeBudget().scale(0.0, 0.001) == 1.0


@pytest.mark.parametrize(("left_s", "scale"), [(0.2, 1.0), (0.1, 1.0), (0.06, 0.7071), (0.03, 0.5), (0.01, 0.25)])
def test_largest_that_is_in_time(left_s: float, scale: float) -> None:
    """A tenth of a second in full: what takes longer than is left is made smaller, by pixels."""
    assert learned(0.1).scale(1.0, left_s) == scale


def test_picture_that_cannot_be_in_time_is_skipped_but_not_for_ever() -> None:
    """The smallest is tried now and then: the machine may have become faster."""
    budget = learned(1.0)
    chosen = [budget.scale(1.0, 0.01) for _ in range(20)]
    assert chosen.count(None) == 18
    assert chosen[9] == chosen[19] == SCALES[-1]


def test_one_slow_run_of_many_does_not_count() -> None:
    """Nine in ten do; and the first run of all never."""
    budget = EncodeBudget()
    for seconds in [5.0] + [0.1] * 15 + [3.0]:
        budget.took(0.0, 1.0, seconds)
    assert budget.expected_s(1.0, 1.0) == pytest.approx(0.1)


def test_what_was_measured_long_ago_is_forgotten() -> None:
    """Half a minute later the full size is tried again."""
    budget = learned(1.0)
    assert budget.scale(29.0, 0.3) == 0.5
    assert budget.scale(31.0, 0.3) == 1.0
