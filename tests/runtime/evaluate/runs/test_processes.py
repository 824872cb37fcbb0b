from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from runtime.errors import CutoffError, EngineError
from runtime.evaluate.codecs import CodecChoice
from runtime.evaluate.pictures import find_pictures, units_of
from runtime.evaluate.rd.cuts import RdJob
from runtime.evaluate.runs.processes import run_here, run_in_processes
from runtime.evaluate.runs.work import Unit


@pytest.fixture
def units(many: Path) -> list[Unit]:
    return units_of(find_pictures([many]))


def job(*peers: str, bundles: Sequence[str] = ()) -> RdJob:
    return RdJob(CodecChoice(tuple(bundles), peers, "auto", 1), (0.5, 2.0), frozenset())


def psnr_by_unit(outcomes: Sequence[object]) -> dict[str, list[float | None]]:
    return {outcome.unit: [row.psnr_db for row in outcome.findings.rows] for outcome in outcomes}


def kill_one() -> None:
    victim = multiprocessing.active_children()[0]
    os.kill(victim.pid, signal.SIGKILL)


# As below: the pool's own thread.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nothing_is_lost_or_counted_twice_when_a_process_is_killed(units: list[Unit]) -> None:
    """The outcomes are those of one process, whatever happens to another on the way."""
    outcomes = []
    for outcome in run_in_processes(job("jpeg2000"), units, 2):
        outcomes.append(outcome)
        if len(outcomes) in (1, 4):
            kill_one()
    assert sorted(outcome.unit for outcome in outcomes) == [unit.name for unit in units]
    assert psnr_by_unit(outcomes) == psnr_by_unit(list(run_here(job("jpeg2000"), units)))


# A thread of the pool may write to a process that is gone; the pool reports what happened otherwise.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_processes_that_never_survive_end_the_run(units: list[Unit]) -> None:
    over = threading.Event()

    def kill_all() -> None:
        while not over.is_set():
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
            time.sleep(0.01)

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        with pytest.raises(EngineError, match="a worker process died 3 times, about"):
            list(run_in_processes(job("jpeg2000"), units, 2))
    finally:
        over.set()
        killer.join()


# What Python raises when a process dies while another is about to start: for a closed pipe, and for one whose number
# belongs to two by then.
@pytest.mark.parametrize("fault", [OSError("handle is closed"), ValueError("bad value(s) in fds_to_keep")])
def test_a_process_that_dies_while_another_starts_is_one_that_died(
    units: list[Unit], monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def submit(*_: object) -> NoReturn:
        raise fault

    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)
    with pytest.raises(EngineError, match="a worker process died 3 times, about"):
        list(run_in_processes(job("jpeg2000"), units, 2))


def test_errors_of_workers_arrive_as_they_are(units: list[Unit]) -> None:
    with pytest.raises(CutoffError, match="no-such-bundle"):
        list(run_in_processes(job(bundles=["no-such-bundle"]), units, 2))
