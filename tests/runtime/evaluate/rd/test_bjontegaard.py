from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from runtime.evaluate.rd.bjontegaard import compare

RATE = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
PSNR = np.array([25.0, 28.0, 31.5, 35.5, 39.0])

# Rates in kbit/s and PSNR in dB with the delta rate of the spreadsheet that goes with JCTVC-E137, as the tests of
# Netflix's VMAF and of Android's video quality suite have them.
PUBLISHED = {
    "JCTVC-E137 1": (
        ([108048.8736, 61279.976, 33905.6656, 18883.6928], [43.6471, 40.3953, 37.247, 34.2911]),
        ([108061.2784, 61299.9936, 33928.7472, 18910.912], [43.6768, 40.4232, 37.2761, 34.3147]),
        -0.465215420752807,
    ),
    "JCTVC-E137 2": (
        ([40433.8848, 7622.7456, 2394.488, 1017.6184], [37.5761, 35.3756, 33.8977, 32.0603]),
        ([40370.12, 7587.0024, 2390.0944, 1017.0984], [37.5982, 35.4025, 33.9194, 32.0822]),
        -1.8779823450567612,
    ),
}

ANCHORS = Path(__file__).resolve().parents[4].parent / "shared" / "anchors"
MATRIX = ANCHORS / "bd_rate_psnr_matrix.csv"


def bd_rate(*curves: ArrayLike, **more: tuple[float, float]) -> float:
    return compare(*curves, **more).percent


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_examples(name: str) -> None:
    """The delta rate is the one that the common test conditions give."""
    reference, curve, expected = PUBLISHED[name]
    assert bd_rate(*reference, *curve) == pytest.approx(expected, abs=1e-9)


@pytest.mark.skipif(not MATRIX.exists(), reason="needs the published Kodak curves in ../shared/anchors")
def test_published_kodak_curves() -> None:
    """All pairs of published Kodak curves give the delta rates computed for them elsewhere."""
    with MATRIX.open(newline="") as file:
        rows = list(csv.DictReader(file))
    compared = 0
    for row in rows:
        name = row.pop("test\\anchor")
        for reference, expected in row.items():
            if expected:
                assert bd_rate(*_kodak(reference), *_kodak(name)) == pytest.approx(float(expected), abs=0.02)
                compared += 1
    assert compared > 100


def _kodak(name: str) -> tuple[list[float], list[float]]:
    with (ANCHORS / f"kodak_{name}.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["psnr_db"]]
    return [float(row["bpp"]) for row in rows], [float(row["psnr_db"]) for row in rows]


def test_scaled_rate_is_the_delta_rate() -> None:
    """A curve at 0.9 times the rate has a delta rate of -10 %, whatever its shape."""
    assert bd_rate(RATE, PSNR, 0.9 * RATE, PSNR) == pytest.approx(-10.0, abs=1e-9)


def test_equal_curves_differ_by_nothing() -> None:
    assert bd_rate(RATE, PSNR, RATE, PSNR) == pytest.approx(0.0, abs=1e-12)


def test_straight_lines_differ_by_their_mean_distance() -> None:
    """PSNR 20 + 10 log10(rate) against 22 + 10 log10(rate): 2 dB are 10^-0.2 of the rate."""
    rate = np.array([1.0, 3.0, 10.0, 40.0])
    gain = bd_rate(rate, 20 + 10 * np.log10(rate), rate, 22 + 10 * np.log10(rate))
    assert gain == pytest.approx(100 * (10**-0.2 - 1), abs=1e-9)


def test_order_of_points_does_not_matter() -> None:
    shuffled = [3, 0, 4, 1, 2]
    value = bd_rate(RATE[shuffled], PSNR[shuffled], 0.8 * RATE, PSNR + 0.3)
    assert value == pytest.approx(bd_rate(RATE, PSNR, 0.8 * RATE, PSNR + 0.3), abs=1e-12)


def test_points_that_gain_nothing_are_left_out() -> None:
    """A higher rate with a worse or unknown picture does not count."""
    rate, psnr = np.insert(RATE, [2, 3], [0.3, 0.6]), np.insert(PSNR, [2, 3], [27.0, math.nan])
    assert bd_rate(RATE, PSNR, rate, psnr) == pytest.approx(0.0, abs=1e-12)


def test_range_cuts_both_curves_between_points() -> None:
    """Each curve is cut where its interpolant has the range's rates, and what both reach is compared."""
    rate = np.array([1.0, 10.0, 100.0])
    low, high = 10 * np.log10(rate), 1 + 10 * np.log10(rate)
    result = compare(rate, low, rate, high, rate_range=(2.0, 50.0))
    assert result.psnr_range == pytest.approx((1 + 10 * math.log10(2), 10 * math.log10(50)), abs=1e-9)
    assert result.percent == pytest.approx(100 * (10**-0.1 - 1), abs=1e-9)


def test_range_leaves_out_what_lies_beyond_it() -> None:
    """A difference outside the range does not count."""
    better_above = PSNR + np.array([0, 0, 0, 0, 2.0])
    full = bd_rate(RATE, PSNR, RATE, better_above)
    low = bd_rate(RATE, PSNR, RATE, better_above, rate_range=(0.1, 0.4))
    assert full < low
    assert low == pytest.approx(0.0, abs=0.2)  # the point outside still shapes the curve near 0.4


def test_curves_without_common_psnr_give_no_number() -> None:
    assert math.isnan(bd_rate(RATE, PSNR, RATE, PSNR + 30))
    assert math.isnan(bd_rate(RATE, PSNR, RATE, PSNR, rate_range=(2.0, 3.0)))
    assert math.isnan(bd_rate(RATE[:1], PSNR[:1], RATE, PSNR))
    assert math.isnan(bd_rate([], [], RATE, PSNR))


def test_two_points_are_a_straight_line() -> None:
    assert bd_rate([1, 10], [20, 30], [0.5, 5], [20, 30]) == pytest.approx(-50.0, abs=1e-9)


def test_gain_is_the_distance_at_equal_rate() -> None:
    """A curve 0.7 dB above another gains 0.7 dB, also inside a range."""
    assert compare(RATE, PSNR, RATE, PSNR + 0.7).gain_db == pytest.approx(0.7, abs=1e-9)
    assert compare(RATE, PSNR, RATE, PSNR + 0.7, rate_range=(0.15, 1.0)).gain_db == pytest.approx(0.7, abs=1e-9)


def test_curves_without_common_rates_gain_no_number() -> None:
    assert math.isnan(compare(RATE, PSNR, 100 * RATE, PSNR).gain_db)
