"""What the next byte is worth: the hull of a stream's curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.worth import Worth, hull, worth_of
from runtime.encoder import Value

CURVES = st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 1e4)), min_size=1, max_size=30, unique_by=lambda p: p[0])


def test_dull_stretch_before_a_steep_one_is_worth_their_mean() -> None:
    """From 100 to 300 the error falls by 40: 0.2 per byte on both stretches, although the first gains hardly any."""
    worth = hull(100, [0, 100, 200, 300], [100.0, 50.0, 49.0, 10.0])
    assert worth.at(0) == pytest.approx(0.5)
    assert worth.at(100) == worth.at(299) == pytest.approx(0.2)
    assert worth.at(300) == 0.0


@given(CURVES)
def test_worth_never_rises_and_adds_up_to_the_whole_fall(points: list[tuple[int, float]]) -> None:
    """Along a stream bytes get cheaper, never below nothing, and all together gain what the curve says."""
    points = [(0, 1e4 + 1), *sorted(points)]
    worth = hull(points[1][0], [offset for offset, _ in points], [error for _, error in points])
    assert list(worth.per_byte) == sorted(worth.per_byte, reverse=True)
    assert all(slope >= 0 for slope in worth.per_byte)
    lengths = np.diff(worth.starts)
    gained = float(np.dot(lengths, worth.per_byte))
    assert gained == pytest.approx(points[0][1] - min(error for _, error in points), rel=1e-6, abs=1e-6)


def test_shortest_prefix_is_worth_the_picture_itself() -> None:
    """Without it there is a grey picture: its head is worth more than all that follows, in a picture with contrast."""
    image = np.zeros((10, 10), np.uint8)
    image[:, 5:] = 200
    value = Value(np.array([50, 100, 200]), np.array([9000.0, 4000.0, 0.0]))
    worth = worth_of(value, image)
    assert worth.first == 50
    assert worth.at(0) == pytest.approx(10_000 / 50)
    assert worth.at(60) == pytest.approx((90 - 40) / 50)


def test_offsets_that_repeat_are_one() -> None:
    """Two portions may end in the same byte."""
    worth = hull(10, [0, 10, 10, 20], [5.0, 4.0, 3.0, 2.0])
    assert worth.starts == (0, 10, 20)


@given(CURVES)
def test_text_keeps_it(points: list[tuple[int, float]]) -> None:
    """What the spool writes it reads."""
    points = [(0, 2e4), *sorted(points)]
    worth = hull(points[1][0], [offset for offset, _ in points], [error for _, error in points])
    assert Worth.from_text(worth.to_text()) == worth
