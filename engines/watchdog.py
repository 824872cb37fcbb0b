"""Alarms: something to be done after a while, by another thread, unless it is called off before.

One thread serves all alarms. Setting one wakes it only if it would sleep too long, and calling one off never does: a
run that ends in time costs no change of threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, Thread


class Watchdog:
    """Keeps alarms; its thread starts with the first."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._alarms: dict[object, tuple[float, Callable[[], None]]] = {}
        self._wakes = 0.0  # when the thread looks next
        self._thread: Thread | None = None

    @contextmanager
    def alarm(self, seconds: float, action: Callable[[], None]) -> Iterator[None]:
        """Call *action* if the block takes longer than *seconds*; it must be quick, and may come a little late."""
        key, instant = object(), time.monotonic() + seconds
        with self._changed:
            self._alarms[key] = instant, action
            if self._thread is None or not self._thread.is_alive():  # it does not survive a fork
                self._thread = Thread(target=self._watch, name="cutoff-watchdog", daemon=True)
                self._wakes = instant
                self._thread.start()
            elif instant < self._wakes:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._alarms.pop(key, None)

    def _watch(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for key, (instant, action) in list(self._alarms.items()):
                    if instant <= now:
                        del self._alarms[key]
                        action()
                self._wakes = min((instant for instant, _ in self._alarms.values()), default=float("inf"))
                self._changed.wait(None if self._wakes == float("inf") else self._wakes - now)


WATCHDOG = Watchdog()
