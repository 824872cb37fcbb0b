"""What a run of `cutoff eval accuracy` comes to."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.evaluate.accuracy.answers import (
    AccuracyPoint,
    Bin,
    DeadlinePoint,
    FirstCorrect,
    Stop,
    accuracy_points,
    calibration,
    deadline_points,
    first_correct,
    stops,
)
from runtime.evaluate.accuracy.guesses import Guess
from runtime.evaluate.runs.folder import Run


@dataclass(frozen=True)
class AccuracySummary:
    """All that is reported; see `runtime.evaluate.accuracy.answers`."""

    points: list[AccuracyPoint]
    deadlines: list[DeadlinePoint]
    stops: list[Stop]
    first_correct: list[FirstCorrect]
    calibration: list[Bin]


def summarise_run(run: Run[Guess]) -> AccuracySummary:
    """Summarise *run*, for the links, deadlines and thresholds of its view."""
    view, rows = run.about["view"], run.rows
    return AccuracySummary(
        points=accuracy_points(rows),
        deadlines=deadline_points(rows, view["link_kbps"], view["deadlines_ms"]),
        stops=stops(rows, view["stops"]),
        first_correct=first_correct(rows),
        calibration=calibration(rows),
    )
