"""Bjontegaard's deltas: how much more rate one curve takes than another at equal PSNR, or PSNR it gains at equal rate.

Log rate is interpolated over PSNR by monotone piecewise cubic Hermite polynomials, and the mean difference is taken
over the PSNR that both curves reach; for the gain, PSNR is interpolated over log rate.

Sources: G. Bjontegaard, VCEG-M33 (2001); the interpolation is that of the common test conditions since JCTVC-E137
(2011), with slopes after F. N. Fritsch and J. Butland, SIAM J. Sci. Stat. Comput. 5(2), 1984, and three-point formulas
at the ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class Comparison(NamedTuple):
    """One curve against another.

    Attributes:
        percent: rate of the curve relative to the reference's at equal PSNR, less 100 %; negative is better; NaN if the
            curves share no PSNR.
        psnr_range: (lowest, highest) PSNR in dB that was compared; NaN twice if none.
        gain_db: PSNR of the curve less the reference's at equal rate, over the rates that both have inside the range;
            NaN if there are none.
    """

    percent: float
    psnr_range: tuple[float, float]
    gain_db: float


def compare(
    reference_rate: ArrayLike,
    reference_psnr: ArrayLike,
    rate: ArrayLike,
    psnr: ArrayLike,
    *,
    rate_range: tuple[float, float] | None = None,
) -> Comparison:
    """Compare the curve of *rate* and *psnr* with the reference's, over the PSNR that both reach.

    Args:
        reference_rate, rate: positive, any unit (the same); in any order.
        reference_psnr, psnr: dB, as many as rates. Points that are not finite are left out, as are those where a
            lower rate already gave as much: whoever may stop anywhere stops there.
        rate_range: (lowest, highest) rate. Each curve is interpolated over all of its points and then cut to these
            rates; the PSNR that both cut curves reach is compared. Points outside shape curves, but are not compared.

    Returns:
        The delta rate; not a number if fewer than two points of a curve count or the curves share no PSNR.
    """
    curves = (_curve(reference_rate, reference_psnr), _curve(rate, psnr))
    if any(len(curve.x) < 2 for curve in curves):
        return Comparison(float("nan"), (float("nan"), float("nan")), float("nan"))
    gain_db = _gain(curves, rate_range)
    ends = [curve.x_range(None if rate_range is None else np.log(rate_range)) for curve in curves]
    lowest, highest = max(low for low, _ in ends), min(high for _, high in ends)
    if not lowest < highest:
        return Comparison(float("nan"), (float("nan"), float("nan")), gain_db)
    reference_mean, mean = (_mean(curve, lowest, highest) for curve in curves)
    return Comparison(100 * float(np.expm1(mean - reference_mean)), (lowest, highest), gain_db)


def _gain(curves: Sequence[_Cubic], rate_range: tuple[float, float] | None) -> float:
    """Return the mean of the second curve's PSNR less the first one's, over the log rates that both have."""
    over_rate = [_Cubic(curve.y, curve.x, _slopes(curve.y, curve.x)) for curve in curves]
    ends = [(float(curve.x[0]), float(curve.x[-1])) for curve in over_rate]
    if rate_range is not None:
        ends.append((float(np.log(rate_range[0])), float(np.log(rate_range[1]))))
    lowest, highest = max(low for low, _ in ends), min(high for _, high in ends)
    if not lowest < highest:
        return float("nan")
    reference_mean, mean = (_mean(curve, lowest, highest) for curve in over_rate)
    return mean - reference_mean


@dataclass(frozen=True)
class _Cubic:
    """A rising piecewise cubic `y` over `x`, log rate over PSNR or the reverse: float64 (n,); `slope` is dy/dx."""

    x: Floats
    y: Floats
    slope: Floats

    def at(self, x: Floats) -> Floats:
        """Return y at *x*, float64 (m,), inside the curve."""
        i = np.clip(np.searchsorted(self.x, x, side="right") - 1, 0, len(self.x) - 2)
        width = self.x[i + 1] - self.x[i]
        t = (x - self.x[i]) / width
        rise = self.y[i + 1] - self.y[i]
        left, right = width * self.slope[i], width * self.slope[i + 1]
        value: Floats = self.y[i] + t * (left + t * (3 * rise - 2 * left - right + t * (left + right - 2 * rise)))
        return value

    def x_range(self, y_range: Sequence[float] | Floats | None) -> tuple[float, float]:
        """Return the ends of x, cut to where y lies in *y_range*; the first is the larger one if nowhere."""
        if y_range is None:
            return float(self.x[0]), float(self.x[-1])
        low, high = (self._x_at(float(y)) for y in y_range)
        return (low, high) if self.y[0] < y_range[1] and self.y[-1] > y_range[0] else (float("inf"), float("-inf"))

    def _x_at(self, y: float) -> float:
        """Return where the curve has *y*, by bisection; an end where it lies outside."""
        low, high = float(self.x[0]), float(self.x[-1])
        if y <= self.y[0]:
            return low
        if y >= self.y[-1]:
            return high
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.at(np.array([middle]))[0] < y else (low, middle)
        return low


def _curve(rate: ArrayLike, psnr: ArrayLike) -> _Cubic:
    rates, decibels = np.asarray(rate, np.float64), np.asarray(psnr, np.float64)
    usable = np.isfinite(rates) & np.isfinite(decibels) & (rates > 0)
    order = np.lexsort((-decibels[usable], rates[usable]))
    y, x = np.log(rates[usable][order]), decibels[usable][order]
    best_before = np.maximum.accumulate(np.concatenate([[-np.inf], x]))[:-1]
    kept = x > best_before
    x, y = x[kept], y[kept]
    return _Cubic(x, y, _slopes(x, y) if len(x) > 1 else np.zeros(len(x)))


def _slopes(x: Floats, y: Floats) -> Floats:
    """Return dy/dx, float64 (n,), with which the Hermite polynomials through the rising (*x*, *y*) rise, too."""
    width = np.diff(x)
    secant = np.diff(y) / width
    if len(secant) == 1:
        return np.repeat(secant, 2)
    first, second = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
    inner = (first + second) / (first / secant[:-1] + second / secant[1:])
    ends = (_end_slope(width[:2], secant[:2]), _end_slope(width[:-3:-1], secant[:-3:-1]))
    return np.concatenate([[ends[0]], inner, [ends[1]]])


def _end_slope(width: Floats, secant: Floats) -> float:
    three_point = ((2 * width[0] + width[1]) * secant[0] - width[0] * secant[1]) / (width[0] + width[1])
    return max(0.0, float(three_point))


def _mean(curve: _Cubic, lowest: float, highest: float) -> float:
    """Return the mean of y between *lowest* and *highest* x: Gauss' two points per piece are exact for cubics."""
    inside = curve.x[(curve.x > lowest) & (curve.x < highest)]
    knots = np.concatenate([[lowest], inside, [highest]])
    half, middle = np.diff(knots) / 2, (knots[1:] + knots[:-1]) / 2
    values = curve.at(middle - half / np.sqrt(3)) + curve.at(middle + half / np.sqrt(3))
    return float((half * values).sum() / (highest - lowest))
