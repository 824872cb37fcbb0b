from __future__ import annotations

import math

import pytest

from runtime.evaluate.accuracy.answers import (
    accuracy_points,
    calibration,
    deadline_points,
    first_correct,
    stops,
)
from runtime.evaluate.accuracy.guesses import ORIGINAL, Guess


def guess(
    image: str, cut: int | None, size: int, rank: int | None, confidence: float = 0.5, **changes: object
) -> Guess:
    """Return an answer; the true class is 7, and a wrong one is 1."""
    values = {
        "codec": "a",
        "image": image,
        "cut_bytes": cut,
        "bytes": size,
        "bpp": 8 * size / 1000,
        "truth": 7,
        "label": None if rank is None else 7 if rank == 1 else 1,
        "confidence": None if rank is None else confidence,
        "rank": rank,
        "agrees": rank == 1,
        "encode_ms": 5.0,
        "decode_ms": 10.0,
        "classify_ms": 2.0,
    }
    return Guess(**{**values, **changes})  # type: ignore[arg-type]


# Two pictures: x is right from 200 bytes on, y only when whole.
GUESSES = [
    guess("x", 100, 100, 3, 0.4),
    guess("x", 200, 200, 1, 0.6),
    guess("x", None, 400, 1, 0.9),
    guess("y", 100, 100, None),
    guess("y", 200, 200, 9, 0.7),
    guess("y", None, 300, 1, 0.8),
]


def test_no_answer_is_a_wrong_one() -> None:
    low, middle, whole = accuracy_points(GUESSES)
    assert (low.cut_bytes, low.top1.count, low.top5.count, low.shown, low.top1.n) == (100, 0, 1, 1, 2)
    assert (middle.top1.value, middle.top5.value, middle.agreement.value) == (0.5, 0.5, 0.5)
    assert (whole.cut_bytes, whole.bytes, whole.top1.value) == (None, 350.0, 1.0)
    assert middle.bpp == pytest.approx(1.6)


def test_calibration_error_is_weighted_by_answers() -> None:
    """At 200 bytes: confidence 0.6 and right, 0.7 and wrong."""
    _, middle, whole = accuracy_points(GUESSES)
    assert middle.calibration_error == pytest.approx((0.4 + 0.7) / 2)
    assert whole.calibration_error == pytest.approx((0.1 + 0.2) / 2)
    (nothing,) = accuracy_points([guess("y", 100, 100, None)])
    assert math.isnan(nothing.calibration_error)


def test_confidence_one_falls_into_the_last_tenth() -> None:
    (last,) = calibration([guess("x", 100, 100, 1, 1.0), guess("x", 200, 200, 2, 0.95)])
    assert (last.n, last.accuracy, last.confidence) == (2, 0.5, pytest.approx(0.975))


def test_the_longest_cut_in_time_answers() -> None:
    """At 16 kbit/s a byte takes half a millisecond; decoding and classifying take 12 ms."""
    early, later, late = deadline_points(GUESSES, [16.0], [61.0, 112.0, 300.0])
    assert (early.top1.count, early.top5.count, early.answered) == (0, 0, 0)
    assert (later.top1.count, later.top5.count, later.answered) == (1, 1, 2)
    assert (late.top1.count, late.answered) == (2, 2)
    (just,) = deadline_points(GUESSES, [16.0], [62.0])
    assert (just.top1.count, just.top5.count, just.answered) == (0, 1, 1)  # y had nothing to show


def test_receiving_stops_at_the_first_answer_of_enough_confidence() -> None:
    low, high, never = stops(GUESSES, [0.5, 0.65, 0.95])
    assert (low.bytes, low.top1.count, low.stopped.count) == (200.0, 1, 2)
    assert (high.bytes, high.top1.count, high.stopped.count) == (300.0, 1, 1)
    assert (never.bytes, never.top1.count, never.stopped.count) == (350.0, 2, 0)


def test_first_correct_answer() -> None:
    """Whoever is never right has received the whole stream."""
    (first,) = first_correct(GUESSES)
    assert (first.bytes, first.median_bytes, first.ever.count) == (250.0, 250.0, 2)
    (never,) = first_correct([guess("x", 100, 100, 2), guess("x", None, 900, 3)])
    assert (never.bytes, never.ever.count) == (900.0, 0)


def test_originals_and_codecs_without_streams_are_points_alone() -> None:
    """What is not cut cannot be stopped, nor does it arrive by and by."""
    others = [guess("x", None, 3000, 1, codec=ORIGINAL), guess("x", 100, 90, 1, codec="webp")]
    assert [point.codec for point in accuracy_points(others)] == [ORIGINAL, "webp"]
    assert not stops(others, [0.5]) and not first_correct(others) and not deadline_points(others, [16.0], [100.0])


def test_cuts_behind_a_streams_end_stop_nothing_and_count_once() -> None:
    """The stream has 150 bytes: at 200 and 400 all of it has been received, and the answer is the same."""
    short = [
        guess("x", 100, 100, 3, 0.4),
        guess("x", 200, 150, 1, 0.9),
        guess("x", 400, 150, 1, 0.9),
        guess("x", None, 150, 1, 0.9),
    ]
    (stop,) = stops(short, [0.5])
    assert (stop.bytes, stop.top1.count, stop.stopped.count, stop.stopped.n) == (150.0, 1, 0, 1)
    assert [(one.confidence, one.n) for one in calibration(short)] == [(0.4, 1), (0.9, 1)]
