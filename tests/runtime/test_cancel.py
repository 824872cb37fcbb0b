"""Cancelling a decoder: what it holds is free, and nothing more is done."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from types import ModuleType

import pytest
from decoding import fed

from runtime import Codec, Decoder
from runtime.errors import Cancelled


class Hook:
    """A clock that counts, and does something at one of its ticks."""

    def __init__(self) -> None:
        self.ticks, self.at, self.action = 0, -1, lambda: None

    def __call__(self) -> float:
        self.ticks += 1
        if self.ticks == self.at:
            self.action()
        return self.ticks / 1000


def calls_of(decoder: Decoder) -> tuple[Callable[[], object], ...]:
    return decoder.finish, decoder.preview, decoder.rendering, lambda: decoder.feed(b"more")


@pytest.mark.parametrize("length", [0, 20, 400, None])
def test_a_cancelled_decoder_does_nothing_more(tiny_codec: Codec, golden: dict[str, bytes], length: int | None) -> None:
    """Whatever it was fed before, and however often it is cancelled."""
    decoder = fed(tiny_codec, golden["rgb"][:length])
    decoder.cancel()
    decoder.cancel()
    for call in calls_of(decoder):
        with pytest.raises(Cancelled, match=r"^decoding was cancelled$"):
            call()


def test_cancelling_frees_what_was_decoded(tiny_codec: Codec, golden: dict[str, bytes]) -> None:
    """The arrays are gone although somebody still holds the decoder."""
    decoder = fed(tiny_codec, golden["frames"])
    decoder.preview()
    latents = weakref.ref(decoder._latents)
    decoder.cancel()
    gc.collect()
    assert latents() is None


def test_work_under_way_ends(make_golden: ModuleType, golden: dict[str, bytes]) -> None:
    """A call that is cancelled at any look at the clock raises, unless its work is done, and leaves nothing behind."""
    clock, stream = Hook(), golden["frames"]
    with Codec.open(make_golden.HERE / "tiny", threads=1, clock=clock) as codec:
        clock.ticks = 0
        whole = fed(codec, stream)
        fed_ticks = clock.ticks
        whole.finish()
        all_ticks = clock.ticks
        late_feeds, late_finishes = [], []  # looks at which a call was cancelled that returned all the same
        for at in range(1, all_ticks + 1):
            decoder = codec.decoder()
            clock.ticks, clock.at, clock.action = 0, at, decoder.cancel
            with pytest.raises(Cancelled):
                decoder.feed(stream)
                if clock.ticks >= at:
                    late_feeds.append(at)
                decoder.finish()
                late_finishes.append(at)
                decoder.preview()
            assert decoder._latents is None and decoder._parser.received == 0
        assert late_feeds == list(range(fed_ticks - 4, fed_ticks + 1))  # its last slice had begun
        assert late_finishes == [all_ticks]


def test_another_thread_may_cancel(tiny_codec: Codec, golden: dict[str, bytes]) -> None:
    """While one thread decodes and decodes, another calls it off."""
    decoder = fed(tiny_codec, golden["frames"])
    begun, faults = threading.Event(), []

    def work() -> None:
        try:
            while True:
                decoder.preview()
                begun.set()
        except Cancelled as fault:
            faults.append(fault)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    decoder.cancel()
    thread.join(60)
    assert len(faults) == 1 and decoder._latents is None
