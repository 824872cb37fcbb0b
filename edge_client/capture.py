"""Pictures from a source, in a thread of their own: the newest wins, what nobody took is dropped and counted.

A source that fails is opened again, later and later; nothing that happens to it ends the client.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from edge_client.sources import Source, SourceLost
from runtime.picture import Image

_LOG = logging.getLogger(__name__)
_RETRY_S = (0.5, 30.0)  # first and longest pause before a source is opened again
_SILENCE_S, _STUCK_S = 15.0, 60.0  # of a call into a driver: no pictures come; it will not come back by itself

T = TypeVar("T")


@dataclass(frozen=True)
class Shot:
    """A picture as the source gave it, uint8 (H, W, 3) or (H, W).

    Attributes:
        taken: instant on the monotonic clock.
        captured: seconds since 1970.
    """

    image: Image
    taken: float
    captured: float


class Newest:
    """A place for one picture: putting another replaces it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shot: Shot | None = None
        self._closed = False
        self.replaced = 0

    def put(self, shot: Shot) -> None:
        """Put *shot* there."""
        with self._changed:
            self.replaced += self._shot is not None
            self._shot = shot
            self._changed.notify()

    def take(self) -> Shot | None:
        """Wait for a picture and take it; None once the place is closed and empty."""
        with self._changed:
            while self._shot is None and not self._closed:
                self._changed.wait()
            shot, self._shot = self._shot, None
            return shot

    def close(self) -> None:
        """Expect no more pictures; one that is there may still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Capture:
    """The thread that reads a source."""

    def __init__(
        self,
        open_source: Callable[[], Source],
        newest: Newest,
        fps: float,
        wait: Callable[[float], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare it.

        Args:
            fps: pictures per second that are handed on at most. A live source is read as fast as it goes.
            wait: waits for so many seconds, or until the capture is stopped: then it returns true.
        """
        self._open, self._newest, self._period, self._clock = open_source, newest, 1 / fps, clock
        self._stop = threading.Event()
        self._wait = wait or self._stop.wait
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self.pictures = 0
        self._gives = False  # the last call for a picture brought one
        self._asked_at: float | None = None  # when the driver was called that has not answered yet

    @property
    def working(self) -> bool:
        """Pictures come."""
        return self._gives and self._silent_s() < _SILENCE_S

    @property
    def stuck(self) -> bool:
        """A call into a driver has not come back for so long that it never will: only a new process helps."""
        return self._silent_s() >= _STUCK_S

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End it. A driver that hangs keeps its thread, which does not keep the process."""
        self._stop.set()
        self._newest.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        pause = _RETRY_S[0]
        while not self._stop.is_set():
            before = self.pictures
            try:
                source = self._called(self._open)
                try:
                    self._read(source)
                    break  # its end
                finally:
                    self._gives = False
                    self._called(source.close)
            except SourceLost as fault:
                _LOG.warning("source lost", extra={"fault": str(fault)})
            except Exception as fault:  # a driver's: whatever it is, the camera must come back
                _LOG.exception("source failed", extra={"fault": str(fault)})
            pause = _RETRY_S[0] if self.pictures > before else min(2 * pause, _RETRY_S[1])
            if self._wait(pause):
                break
        self._newest.close()

    def _called(self, work: Callable[[], T]) -> T:
        """Do *work*, a driver's, and let others see since when."""
        self._asked_at = self._clock()
        try:
            return work()
        finally:
            self._asked_at = None

    def _silent_s(self) -> float:
        asked_at = self._asked_at
        return 0.0 if asked_at is None else self._clock() - asked_at

    def _read(self, source: Source) -> None:
        due = self._clock()
        while not self._stop.is_set():
            if not source.live and self._wait(max(0.0, due - self._clock())):
                return
            image = self._called(source.read)
            if image is None:
                return
            self._gives = True
            now = self._clock()
            if now < due and source.live:
                continue
            due = max(due + self._period, now - self._period)
            self.pictures += 1
            self._newest.put(Shot(image, now, time.time()))
