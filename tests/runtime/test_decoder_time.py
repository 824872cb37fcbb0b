"""The limit of time that a decoder may work on one stream, on a made-up clock."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import pytest
from decoding import fed, header_of

from runtime import Codec
from runtime.errors import LimitExceeded
from runtime.stream import Limits


@dataclass
class Clock:
    """A clock that a decoder reads: every look at it takes *tick_s*."""

    tick_s: float = 0.0
    now: float = 0.0

    def __call__(self) -> float:
        self.now += self.tick_s
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hasty_codec(make_golden: ModuleType, clock: Clock) -> Iterator[Codec]:
    """The tiny bundle, with a second for each stream."""
    with Codec.open(make_golden.HERE / "tiny", threads=1, limits=Limits(seconds=1.0), clock=clock) as opened:
        yield opened


def test_work_beyond_the_time_limit_is_refused(hasty_codec: Codec, golden: dict[str, bytes], clock: Clock) -> None:
    """Wherever the second is over, inside one call or over several, the error is one and says so; and again later."""
    stream, message = golden["frames"], r"^decoding has taken [\d.]+ s; allowed: 1$"
    for ticks in (3, 7, 12, 30):
        clock.tick_s = 1.0 / ticks
        with pytest.raises(LimitExceeded, match=message):
            hasty_codec.decode(stream)
    clock.tick_s = 0.01
    decoder = hasty_codec.decoder()
    with pytest.raises(LimitExceeded, match=message):
        for position in range(0, len(stream), 50):
            decoder.feed(stream[position : position + 50])
    for call in (decoder.finish, decoder.preview, lambda: decoder.feed(b"more")):
        with pytest.raises(LimitExceeded, match=r"allowed: 1$"):
            call()


def test_time_that_is_over_while_decoding_begins_anew_stays_over(
    hasty_codec: Codec, golden: dict[str, bytes], make_golden: ModuleType, clock: Clock
) -> None:
    """Damage sends the decoder back to the start; if there is no time left for that, no later call makes a picture."""
    stream = golden["frames"]
    start = header_of(stream).body_start
    damaged = make_golden.flipped(stream, start + 100, 3)
    decoder = fed(hasty_codec, damaged[: start + 2000])
    clock.tick_s = 0.6
    with pytest.raises(LimitExceeded):
        decoder.feed(damaged[start + 2000 : start + 2052])
    clock.tick_s = 0.0
    for call in (decoder.finish, decoder.preview):
        with pytest.raises(LimitExceeded):
            call()


def test_previews_count_as_work(hasty_codec: Codec, golden: dict[str, bytes], clock: Clock) -> None:
    """A sender who makes a server draw previews without end is stopped like any other."""
    decoder = fed(hasty_codec, golden["rgb"])
    clock.tick_s = 0.001
    with pytest.raises(LimitExceeded):
        for _ in range(1000):
            decoder.preview()


def test_waiting_is_not_work(hasty_codec: Codec, golden: dict[str, bytes], clock: Clock) -> None:
    """A slow link costs the decoder nothing; and without a limit nothing is ever too long."""
    stream = golden["rgb"]
    decoder = hasty_codec.decoder()
    for position in range(0, len(stream), 20):
        decoder.feed(stream[position : position + 20])
        clock.now += 100.0
    assert decoder.finish().complete
    clock.tick_s = 1e6
    with Codec.open(hasty_codec.bundle.where, threads=1, limits=Limits(seconds=math.inf), clock=clock) as patient:
        assert patient.decode(stream).complete
