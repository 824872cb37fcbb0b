"""Runs that whoever waits for them may leave: on threads of their own, so that no answer has to wait until they end.

A run that was told to end does so between two operations of its graph, up to ten milliseconds later.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Unfinished  # another class than the built-in one before Python 3.11
from typing import TypeVar

from engines.errors import OutOfTime

_T = TypeVar("_T")
_MOST = 64  # runs under way


class _Threads:
    """The executor of this process; threads do not survive a fork, so that a child makes its own."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._executor = None

    @property
    def executor(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(_MOST, thread_name_prefix="cutoff-aside")
        return self._executor


_THREADS = _Threads()


def run_aside(work: Callable[[], _T], seconds: float, give_up: Callable[[], None]) -> _T:
    """Return what *work*, run on another thread, returns or raises within *seconds*.

    Raises:
        OutOfTime: it took longer. *give_up* was called and must make it end soon; what comes of it is forgotten.
    """
    running = _THREADS.executor.submit(work)
    try:
        return running.result(min(max(0.0, seconds), threading.TIMEOUT_MAX))  # a deadline may be infinite
    except Unfinished:
        if running.done():  # it may be the work's own
            return running.result()
        if not running.cancel():
            give_up()
        raise OutOfTime(f"not over after {1000 * seconds:.1f} ms") from None
