"""Runs aside: results and faults come through, and who waited long enough goes on without them."""

from __future__ import annotations

import os
import threading

import pytest

from engines.aside import run_aside
from engines.errors import EngineError, OutOfTime

PATIENCE_S = 60.0  # nothing here takes so long


def never() -> None:
    raise AssertionError("this run was over in time")


def test_what_is_over_in_time_is_returned_or_raised() -> None:
    """On another thread; a fault of the work is the caller's, also one that looks like running out of time."""
    assert run_aside(threading.get_ident, PATIENCE_S, never) != threading.get_ident()
    for fault in (EngineError("no"), TimeoutError("of its own")):

        def fails(fault: Exception = fault) -> None:
            raise fault

        with pytest.raises(type(fault)) as raised:
            run_aside(fails, PATIENCE_S, never)
        assert raised.value is fault


def test_nobody_waits_for_what_takes_too_long() -> None:
    """It is told to end; others run meanwhile."""
    told, ended = threading.Event(), threading.Event()

    def work() -> None:
        assert told.wait(PATIENCE_S)
        ended.set()

    with pytest.raises(OutOfTime, match="not over after 20"):
        run_aside(work, 0.02, lambda: None)
    assert run_aside(lambda: 7, PATIENCE_S, never) == 7
    assert not ended.is_set()
    told.set()
    assert ended.wait(PATIENCE_S)


def test_who_gives_up_says_so() -> None:
    end = threading.Event()
    with pytest.raises(OutOfTime):
        run_aside(lambda: end.wait(PATIENCE_S), 0.02, end.set)
    assert end.is_set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_forked_child_has_threads_of_its_own() -> None:
    assert run_aside(lambda: 1, PATIENCE_S, never) == 1
    child = os.fork()
    if child == 0:
        os._exit(0 if run_aside(lambda: 2, PATIENCE_S, never) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
