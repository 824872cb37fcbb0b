from __future__ import annotations

import pytest

from runtime.evaluate.deadline.decodes import IDLE, LOADED, NOT_ARRIVED, NOTHING, PREVIEW, SYNTHESIS, Decode
from runtime.evaluate.deadline.promptness import goals, punctuality


def decode(answer: str, finished_ms: float = 90.0, **changes: object) -> Decode:
    """Return a decode against 100 ms, where the minimum is 40 ms and synthesis takes 60."""
    shown = answer in (SYNTHESIS, PREVIEW)
    values = {
        "codec": "a",
        "load": IDLE,
        "image": "x",
        "trace": "constant",
        "factor": 1.5,
        "relative_to": "synthesis",
        "repeat": 0,
        "deadline_ms": 100.0,
        "minimum_ms": 40.0,
        "synthesis_ms": 60.0,
        "head_ms": 5.0,
        "finished_ms": finished_ms,
        "answer": answer,
        "bytes_used": 100,
        "bytes_ideal": 100,
        "psnr_db": 30.0 if shown else None,
        "ideal_db": 30.1,
    }
    return Decode(**{**values, **changes})  # type: ignore[arg-type]


def test_what_is_counted() -> None:
    """Decodes whose head segment did not arrive are counted apart, and nowhere else."""
    some = [decode(SYNTHESIS), decode(PREVIEW), decode(SYNTHESIS, 103.0), decode(NOTHING, 101.0), decode(NOT_ARRIVED)]
    (line,) = punctuality(some)
    assert (line.n, line.not_arrived, line.in_time.count, line.late, line.nothing) == (4, 1, 2, 1, 1)
    assert line.preview.value == 0.25
    assert (line.overshoot_max_ms, line.overshoot_p999_ms) == (3.0, 3.0)
    assert line.loss_mean_db == pytest.approx(0.1)


def test_deadlines_loads_and_codecs_are_apart() -> None:
    lines = punctuality([decode(SYNTHESIS), decode(SYNTHESIS, load=LOADED), decode(SYNTHESIS, codec="b"),
                         decode(SYNTHESIS, factor=2.0)])  # fmt: skip
    assert [(line.codec, line.load, line.factor) for line in lines] == [
        ("a", IDLE, 1.5), ("a", LOADED, 1.5), ("b", IDLE, 1.5), ("a", IDLE, 2.0),
    ]  # fmt: skip


def test_goals_are_reached() -> None:
    found = goals([decode(SYNTHESIS)] * 1000)
    assert len(found) == 4 and all(goal.reached for goal in found)


@pytest.mark.parametrize(
    ("missed", "which"),
    [
        ([decode(NOTHING)] * 2, "in time"),
        ([decode(SYNTHESIS, 106.0)] * 2, "overshoot"),
        ([decode(PREVIEW)] * 60, "answered by the preview or nothing"),
        ([decode(SYNTHESIS, ideal_db=40.0)] * 50, "mean loss"),
    ],
)
def test_goals_are_missed(missed: list[Decode], which: str) -> None:
    found = goals([*[decode(SYNTHESIS)] * (1000 - len(missed)), *missed])
    assert which in [goal.figure.partition(",")[0].split(" against")[0] for goal in found if not goal.reached]


def test_a_busy_machine_may_overshoot_more() -> None:
    late = [decode(SYNTHESIS, 110.0, load=load) for load in (IDLE, LOADED) for _ in range(10)]
    reached = {goal.load: goal.reached for goal in goals(late) if goal.figure.startswith("overshoot")}
    assert reached == {IDLE: False, LOADED: True}


def test_hopeless_deadlines_count_for_no_goal() -> None:
    hopeless = decode(NOTHING, deadline_ms=30.0)
    for goal in goals([decode(SYNTHESIS), hopeless]):
        assert (goal.n, goal.reached) == (1, True)


def test_goals_that_nothing_was_measured_for_are_not_reached() -> None:
    for goal in goals([decode(NOT_ARRIVED)]):
        assert (goal.n, goal.reached) == (0, False)


def test_shares_are_said_with_what_they_rest_on() -> None:
    """647 of 647 do not show that 99.9 % are in time: the interval stands beside them."""
    in_time, overshoot, preview, loss = goals([decode(SYNTHESIS)] * 647)
    assert (in_time.measured, in_time.reached) == ("100.00 % (99.41 to 100.00)", True)
    assert preview.measured == "0.00 % (0.00 to 0.59)"
    assert (overshoot.measured, loss.measured) == ("0.00 ms", "0.100 dB")
