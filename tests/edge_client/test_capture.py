"""The capture thread: the newest picture wins, sources come back."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from edge_client.capture import Capture, Newest, Shot
from edge_client.sources import SourceLost
from runtime.picture import Image

SAFETY_S = 30.0


def shot(shade: int) -> Shot:
    return Shot(np.full((2, 2), shade, np.uint8), float(shade), 0.0)


class Script:
    """A source that gives what it is told: a shade, an error, or an action before the next."""

    def __init__(self, steps: list[int | Exception | Callable[[], object]], *, live: bool = True) -> None:
        self.live, self.steps, self.closed = live, steps, False

    def read(self) -> Image | None:
        while self.steps:
            step = self.steps.pop(0)
            if isinstance(step, Exception):
                raise step
            if isinstance(step, int):
                return np.full((2, 2), step, np.uint8)
            step()
        return None

    def close(self) -> None:
        self.closed = True


class Clock:
    """Every look at it takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_newest_picture_wins() -> None:
    """Three pictures while nobody takes any: the third is taken, two were replaced."""
    newest = Newest()
    for shade in (1, 2, 3):
        newest.put(shot(shade))
    taken = newest.take()
    assert taken is not None and taken.taken == 3.0
    assert newest.replaced == 2


def test_place_that_is_closed_gives_its_last_picture_and_then_none() -> None:
    """So that the encoder ends in order."""
    newest = Newest()
    newest.put(shot(1))
    newest.close()
    assert newest.take() is not None
    assert newest.take() is None


def test_taking_waits_for_a_picture() -> None:
    """In another thread, until one is put."""
    newest, taken = Newest(), list[Shot | None]()
    taker = threading.Thread(target=lambda: taken.append(newest.take()))
    taker.start()
    newest.put(shot(5))
    taker.join(SAFETY_S)
    assert taken[0] is not None and taken[0].taken == 5.0


def test_pictures_pass_while_the_encoder_is_busy() -> None:
    """A source runs through while nobody takes: its last picture is what the encoder gets."""
    newest = Newest()
    capture = Capture(lambda: Script([1, 2, 3, 4]), newest, 1000.0, clock=Clock())
    capture.start()
    capture._thread.join(SAFETY_S)
    taken = newest.take()
    assert taken is not None and taken.image[0, 0] == 4
    assert (capture.pictures, newest.replaced) == (4, 3)


def test_live_source_is_thinned_out() -> None:
    """A camera of a picture in two seconds, of which one in eight is wanted; all are read, so that none is old."""
    capture = Capture(lambda: Script(list(range(1, 21))), Newest(), 0.125, clock=Clock())
    capture.start()
    capture._thread.join(SAFETY_S)
    assert 4 <= capture.pictures <= 7


def test_source_that_fails_is_opened_again_later_and_later() -> None:
    """Each time from the beginning; a picture in between makes the pauses short again."""
    pauses: list[float] = []
    sources = [
        Script([SourceLost("gone")]),
        Script([SourceLost("gone")]),
        Script([1, ValueError("a driver's fault")]),
        Script([2]),
    ]
    opened = list(sources)
    newest = Newest()
    capture = Capture(
        lambda: opened.pop(0), newest, 1000.0, wait=lambda pause: bool(pauses.append(pause)), clock=Clock()
    )
    capture.start()
    capture._thread.join(SAFETY_S)
    assert pauses == [1.0, 2.0, 0.5]
    assert all(source.closed for source in sources)
    taken = newest.take()
    assert taken is not None and taken.image[0, 0] == 2


def test_source_that_cannot_be_opened_does_not_end_the_capture(caplog: pytest.LogCaptureFixture) -> None:
    """It is tried until the capture is stopped."""
    tries = threading.Semaphore(0)

    def refuse() -> Script:
        tries.release()
        raise SourceLost("no such camera")

    capture = Capture(refuse, Newest(), 5.0, wait=lambda pause: capture._stop.is_set())
    capture.start()
    for _ in range(3):
        assert tries.acquire(timeout=SAFETY_S)
    capture.stop(SAFETY_S)
    assert not capture._thread.is_alive()
    assert not capture.working
    assert "source lost" in caplog.text


def test_driver_that_hangs_is_seen() -> None:
    """No pictures come any more, and after a minute nobody believes that some will; where one does, all is well."""
    now, hangs, goes_on, shown = [0.0], threading.Event(), threading.Event(), threading.Event()
    steps = [1, lambda: (hangs.set(), goes_on.wait(SAFETY_S)), 2, lambda: (shown.set(), goes_on.wait(SAFETY_S))]
    capture = Capture(lambda: Script(steps), Newest(), 1000.0, clock=lambda: now[0])
    assert (capture.working, capture.stuck) == (False, False)
    capture.start()
    assert hangs.wait(SAFETY_S)
    for seconds, working, stuck in ((1.0, True, False), (20.0, False, False), (70.0, False, True)):
        now[0] = seconds
        assert (capture.working, capture.stuck) == (working, stuck)
    goes_on.set()
    assert shown.wait(SAFETY_S)
    capture.stop(SAFETY_S)
    assert (capture.pictures, capture.stuck) == (2, False)


def test_files_wait_to_be_taken_in_time() -> None:
    """A source that is not live is paced: between pictures the capture waits."""
    pauses: list[float] = []
    now = [0.0]

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        now[0] += seconds
        return False

    capture = Capture(lambda: Script([1, 2, 3], live=False), Newest(), 4.0, wait=wait, clock=lambda: now[0])
    capture.start()
    capture._thread.join(SAFETY_S)
    assert capture.pictures == 3
    assert pauses == [0.0, 0.25, 0.25, 0.25]
