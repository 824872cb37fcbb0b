"""Shares with their uncertainty, and quantiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NORMAL_975 = 1.959963984540054  # of the standard normal distribution: 95 % lie within


@dataclass(frozen=True)
class Share:
    """How many of *n* cases hold, with a 95 % interval of what that says of all such cases.

    Attributes:
        count, n: cases that hold, and all.
        value, low, high: 0..1; not a number if there are no cases.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
    """

    count: int
    n: int
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, count: int, n: int) -> Share:
        """Return the share of *count* in *n*."""
        if not n:
            return cls(0, 0, math.nan, math.nan, math.nan)
        share, square = count / n, _NORMAL_975**2
        middle = (share + square / (2 * n)) / (1 + square / n)
        half = _NORMAL_975 / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
        low = 0.0 if count == 0 else middle - half  # where rounding would leave 1e-17
        return cls(count, n, share, low, 1.0 if count == n else middle + half)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest of *values* that at least *share* of them do not exceed; not a number if there are none."""
    if not values:
        return math.nan
    return float(np.sort(np.asarray(values, np.float64))[max(0, math.ceil(share * len(values)) - 1)])


def mean(values: Sequence[float]) -> float:
    """Return the mean; not a number if there are none."""
    return math.fsum(values) / len(values) if values else math.nan
