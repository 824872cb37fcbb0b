"""How long the server takes for an answer, learned from answers."""

from __future__ import annotations

import pytest

from edge_client.answer_time import AnswerTime


def answer(one: AnswerTime, arrivals: list[tuple[int, float]], used: int) -> None:
    for held, at in arrivals:
        one.arrived(1, held, at)
    one.answered(1, used, due=1.0, most_s=0.3)


def test_bytes_that_were_not_used_came_too_late() -> None:
    """Those that arrived 0.2 s before the deadline were not: the estimate goes half of the way there."""
    one = AnswerTime(0.1)
    answer(one, [(1000, 0.5), (2000, 0.8), (3000, 0.85)], used=1000)
    assert one.seconds == pytest.approx(0.15)


def test_bytes_that_were_used_came_early_enough() -> None:
    """The last arrived 0.05 s before the deadline: the estimate falls a little, never to nothing."""
    one = AnswerTime(0.1)
    answer(one, [(1000, 0.5), (2000, 0.95)], used=2000)
    assert one.seconds == pytest.approx(0.1 - 0.02 * 0.095)
    for _ in range(1000):
        answer(one, [(1000, 0.999)], used=1000)
    assert one.seconds == pytest.approx(0.005)


def test_what_rose_in_bad_times_falls_again() -> None:
    """The client stops as early as it has learned to: nothing ever arrives later than that."""
    one = AnswerTime(0.3)
    for _ in range(300):
        last = 1.0 - one.seconds - 0.005
        answer(one, [(1000, 0.5), (2000, last)], used=2000 if one.seconds > 0.05 else 1000)
    assert 0.03 < one.seconds < 0.06


def test_answers_that_teach_nothing() -> None:
    """Bytes in use that came early, unused ones that came late: both were expected."""
    one = AnswerTime(0.1)
    answer(one, [(1000, 0.5)], used=1000)
    answer(one, [(1000, 0.5), (2000, 0.95)], used=1000)
    one.answered(7, 0, due=1.0, most_s=0.3)
    assert one.seconds == 0.1


def test_what_cannot_be_is_not_believed() -> None:
    """An answer that used next to nothing of what came long before: the server had other trouble."""
    one = AnswerTime(0.1)
    for _ in range(100):
        answer(one, [(100, 0.05), (1000, 0.1)], used=100)
    assert one.seconds == pytest.approx(0.3)


def test_too_little_for_a_picture_says_nothing_of_time() -> None:
    """Nothing was used, as there was nothing to use."""
    one = AnswerTime(0.1)
    answer(one, [(100, 0.1)], used=0)
    assert one.seconds == 0.1


def test_forgotten_frames_teach_nothing() -> None:
    """Their answers are not to come."""
    one = AnswerTime(0.1)
    one.arrived(1, 1000, 0.5)
    one.forget(1)
    one.answered(1, 0, due=1.0, most_s=0.3)
    assert one.seconds == 0.1
