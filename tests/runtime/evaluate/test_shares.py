from __future__ import annotations

import math

import pytest

from runtime.evaluate.shares import Share, mean, quantile


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [  # R. G. Newcombe, Statistics in Medicine 17, 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_intervals(count: int, n: int, low: float, high: float) -> None:
    share = Share.of(count, n)
    assert share.value == count / n
    assert (share.low, share.high) == pytest.approx((low, high), abs=5e-5)


def test_extremes_stay_inside() -> None:
    assert Share.of(0, 7).low == 0.0 and Share.of(7, 7).high == 1.0
    assert math.isnan(Share.of(0, 0).value)


def test_quantiles_are_values_that_occurred() -> None:
    values = [float(i) for i in range(1, 101)]
    assert [quantile(values, share) for share in (0.01, 0.5, 0.99, 0.999, 1.0)] == [1, 50, 99, 100, 100]
    assert math.isnan(quantile([], 0.5)) and math.isnan(mean([]))
