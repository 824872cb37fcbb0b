"""Alarms: what is called, when it is not, and that one thread serves all."""

from __future__ import annotations

import threading

from engines.watchdog import Watchdog

PATIENCE_S = 60.0  # nothing here takes so long


def test_what_takes_too_long_is_told() -> None:
    """Several at a time, also one that is set while the thread waits for a later one."""
    dog, soon, later = Watchdog(), threading.Event(), threading.Event()
    with dog.alarm(0.05, later.set), dog.alarm(PATIENCE_S, lambda: None):
        with dog.alarm(0.0, soon.set):
            assert soon.wait(PATIENCE_S)
        assert later.wait(PATIENCE_S)


def test_what_ends_in_time_is_left_alone() -> None:
    """An alarm that was called off does nothing, though later ones do."""
    dog, wrong, right = Watchdog(), threading.Event(), threading.Event()
    for _ in range(100):
        with dog.alarm(PATIENCE_S, wrong.set):
            pass
    with dog.alarm(0.0, right.set):
        assert right.wait(PATIENCE_S)
    assert not wrong.is_set() and not dog._alarms


def test_an_alarm_rings_once() -> None:
    dog, rings, last = Watchdog(), [], threading.Event()
    with dog.alarm(0.0, lambda: rings.append(1)), dog.alarm(0.02, last.set):
        assert last.wait(PATIENCE_S)
    assert rings == [1]


def test_one_thread_serves_all() -> None:
    dog = Watchdog()
    assert dog._thread is None
    with dog.alarm(PATIENCE_S, lambda: None):
        first = dog._thread
    with dog.alarm(PATIENCE_S, lambda: None), dog.alarm(PATIENCE_S, lambda: None):
        assert dog._thread is first is not None and first.daemon
