"""Deadlines: what a decoder leaves out, in which order, and that it never answers late without a word.

Clock and costs are made up: networks advance the clock by what they are said to cost.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from clockwork import COSTS, FULL, SAFETY, FixedCosts, World
from numpy.typing import NDArray

from engines.costs import Costs
from runtime import Codec, Deadline, Picture
from runtime.errors import OutOfTime
from runtime.families.planes import PlaneLatents
from runtime.stream import Header, Limits

HAND_OVER = 0.002  # from the end of a wait for a run to what answers instead
ENDS = HAND_OVER + 0.1 * COSTS["g_s"]  # the same, where a preview is made while the run ends
# Where most runs of g_s take 20 ms, as they do here: a preview, then g_s, both without reconstruction.
PREVIEW_FIRST = COSTS["preview"] + 2 * COSTS["finish"] + COSTS["reconstruct"] + COSTS["g_s"] + HAND_OVER + SAFETY


def finished(world: World, data: bytes, left_at_finish_s: float, *, preview: bool = False) -> Picture:
    """Feed *data* in good time, and call `finish` when *left_at_finish_s* are left."""
    decoder = world.codec.decoder(world.deadline(100.0))
    decoder.feed(data)
    if preview:
        assert decoder.preview() is not None
    assert decoder._deadline is not None
    world.now = decoder._deadline.instant - left_at_finish_s
    return decoder.finish()


def same(one: NDArray[np.uint8] | None, other: NDArray[np.uint8] | None) -> bool:
    return one is not None and other is not None and bool((one == other).all())


# Order of what is left out.


def test_ample_time_skips_nothing(world: World) -> None:
    """With time enough the picture is that of no deadline, and the margin is what was left."""
    picture = finished(world, world.early, 0.500)
    assert same(picture.image, world.codec.decode(world.early).image)
    assert picture.skipped == () and not picture.missed
    assert picture.margin_ms == pytest.approx(500 - 20 - 10)


def test_optional_passes_are_skipped_first(world: World) -> None:
    """Too little time for postprocessing leaves it out and still makes the picture of full synthesis."""
    picture = finished(world, world.early, 0.025)
    assert picture.skipped == ("post_low",) and not picture.missed and picture.image is not None
    assert picture.margin_ms == pytest.approx(5.0)
    assert not same(picture.image, world.codec.decode(world.early).image)
    assert picture.image.shape == (512, 768, 3)


def test_preview_answers_when_synthesis_does_not_fit(world: World) -> None:
    """Too little time for g_s: the preview network answers, and the result says what is missing."""
    picture = finished(world, world.early, 0.010)
    decoder = world.codec.decoder()
    decoder.feed(world.early)
    assert same(picture.image, decoder.preview())
    assert picture.skipped == ("post_low", "g_s") and not picture.missed
    assert picture.margin_ms == pytest.approx(7.0)


def test_last_preview_answers_when_nothing_fits(world: World) -> None:
    """Too little time even for a preview: the one made before is the answer, in time."""
    picture = finished(world, world.early, 0.002, preview=True)
    decoder = world.codec.decoder()
    decoder.feed(world.early)
    assert same(picture.image, decoder.preview())
    assert picture.skipped == ("post_low", "g_s", "preview")
    assert not picture.missed and picture.margin_ms == pytest.approx(2.0)


def test_no_time_and_no_preview_is_an_explicit_miss(world: World) -> None:
    """Without anything to show the answer is a miss, and no picture comes late."""
    picture = finished(world, world.early, 0.002)
    assert picture.image is None and picture.missed
    assert picture.skipped == ("post_low", "g_s", "preview")
    assert picture.bytes_used <= len(world.early) and picture.steps > 0


def test_passed_deadline_is_a_miss_even_with_a_preview(world: World) -> None:
    """After the deadline the last preview is still handed out, but called late."""
    picture = finished(world, world.early, -0.005, preview=True)
    assert picture.image is not None and picture.missed
    assert picture.margin_ms == pytest.approx(-5.0)


@pytest.mark.parametrize(("left_s", "skipped"), [(0.0304, ("post_low",)), (0.0306, ()), (0.0208, ("post_low", "g_s"))])
def test_stages_fit_only_with_a_safety_margin(world: World, left_s: float, skipped: tuple[str, ...]) -> None:
    """What is run leaves nearly its estimate and that of the last touches, and half a millisecond."""
    picture = finished(world, world.early, left_s)
    assert picture.skipped == skipped and not picture.missed


def test_complete_stream_needs_no_postprocessing(world: World) -> None:
    """A family lists the passes that help; none is skipped that was not asked for."""
    assert finished(world, world.stream, 0.025).skipped == ()


# Entropy decoding stops in time.


def test_finish_by_leaves_time_for_the_full_picture(world: World) -> None:
    """Whoever calls `finish` at `finish_by()` gets full synthesis in time; without a deadline there is none."""
    decoder = world.codec.decoder(world.deadline(1.0))
    decoder.feed(world.early)
    finish_by = decoder.finish_by()
    assert finish_by == pytest.approx(1001.0 - FULL)
    assert finish_by is not None
    world.now = finish_by + COSTS["reconstruct"] - 1e-6  # reconstruction itself takes its time
    picture = decoder.finish()
    assert picture.skipped == ("post_low",) and not picture.missed
    assert world.codec.decoder().finish_by() is None


def test_entropy_decoding_stops_in_time_for_the_picture(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When decoding is slow it ends early, inside the stream, and the picture comes in time from what is known."""
    monkeypatch.setattr("runtime.decoder._SLICE", 256)
    world.slice_s = 0.0009
    decoder = world.codec.decoder(world.deadline(0.050))
    decoder.feed(world.stream)
    assert world.now <= 1000.050 - FULL
    world.now += COSTS["reconstruct"]
    picture = decoder.finish()
    assert picture.image is not None and "g_s" not in picture.skipped
    assert not picture.missed and not picture.complete and 0 < picture.steps < picture.steps_total
    assert picture.bytes_used < len(world.stream)


def test_bytes_used_tell_where_a_late_decoder_stopped(world: World) -> None:
    """The prefix that is reported holds all trits that were decoded, and was fed."""
    for slice_s in (0.012, 0.009, 0.006, 0.004):
        world.slice_s = slice_s
        for length in (300, 1900, 2200, 2300, len(world.stream)):
            world.now = 1000.0
            decoder = world.codec.decoder(world.deadline(0.050))
            decoder.feed(world.stream[:length])
            picture = decoder.finish()
            assert picture.bytes_used <= length
            world.slice_s = 0.0
            plain = world.codec.decoder()
            plain.feed(world.stream[: picture.bytes_used])
            world.slice_s = slice_s
            late, free = decoder._latents, plain._latents
            assert isinstance(late, PlaneLatents) and isinstance(free, PlaneLatents)
            assert late.y is not None and free.y is not None
            depth = late.y.tables.deviation  # a node that is known better never has more deviation left
            assert (depth[free.y.nodes] <= depth[late.y.nodes]).all()


def test_feeding_after_the_time_is_up_changes_nothing(world: World) -> None:
    """Bytes that come too late to be decoded are taken without being used."""
    decoder = world.codec.decoder(world.deadline(1.0))
    decoder.feed(world.early)
    world.now += 1.0 - FULL + 0.0004
    decoder.feed(world.stream[len(world.early) :])
    picture = decoder.finish()
    on_time = world.codec.decode(world.early)
    assert picture.steps == on_time.steps
    assert picture.bytes_used <= len(world.early) + 8  # counted in words that the coder has looked at


def test_a_preview_of_more_trits_beats_synthesis_of_hardly_any(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where g_s would have to start before much is known, decoding goes on and the preview answers."""
    world.slice_s = 0.001
    left_s = FULL + 0.006  # the head segment takes three slices
    rushed = world.codec.decode(world.stream, world.deadline(left_s))
    assert "g_s" not in rushed.skipped and rushed.steps < 2
    monkeypatch.setattr(world.codec.model.family, "preview_share", 0.001)
    patient = world.codec.decode(world.stream, world.deadline(left_s))
    assert "g_s" in patient.skipped and patient.steps > rushed.steps
    assert patient.image is not None and not patient.missed


def test_who_waits_for_more_is_told_to_wait_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When g_s would have to start, hardly anything is known, and bytes may still come, there is time for a preview.

    Not so if much is known, or if the link was silent for so long that nothing much is to be expected of it.
    """
    monkeypatch.setattr(world.codec.model.family, "preview_share", 0.02)
    start = Header.from_bytes(world.stream, Limits()).body_start
    saved = COSTS["g_s"] - COSTS["preview"]
    margin = (saved + 0.005) / 2  # of what is more than the least, as that is too little to keep all that a preview is
    nearly_all = len(world.stream) - 100
    for length, silent_s, gain_s in ((start, 0.005, saved - margin), (start, 0.9, 0.0), (nearly_all, 0.005, 0.0)):
        decoder = world.codec.decoder(world.deadline(FULL + silent_s))
        decoder.feed(world.stream[:length])
        first = decoder.finish_by()
        assert first == pytest.approx(world.now + silent_s)
        assert first is not None
        world.now = first
        assert decoder.finish_by() == pytest.approx(first + gain_s, abs=1e-6)


@pytest.mark.parametrize("standstill_s", [0.004, 0.015])
def test_a_preview_begins_early_enough_for_a_machine_that_stands_still(
    world: World, monkeypatch: pytest.MonkeyPatch, standstill_s: float
) -> None:
    """Where only a preview is possible, bytes that wait are left for a margin, or for half of what time there is."""
    monkeypatch.setattr("runtime.decoder._STANDSTILL_S", standstill_s)
    monkeypatch.setattr("runtime.decoder._SLICE", 256)
    world.slice_s = 0.0004
    left_s, least_s = 0.022, COSTS["reconstruct"] + COSTS["preview"] + COSTS["finish"] + SAFETY
    margin_s = min(standstill_s, (left_s - least_s) / 2)
    decoder = world.codec.decoder(world.deadline(left_s))
    decoder.feed(world.stream)
    assert world.now == pytest.approx(1000 + left_s - least_s - margin_s, abs=0.001)
    picture = decoder.finish()
    assert picture.skipped == ("post_low", "g_s") and not picture.complete
    assert picture.margin_ms is not None and picture.margin_ms >= 1000 * (margin_s - world.slice_s)


def test_synthesis_is_kept_where_little_is_left_to_know(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that knows nearly everything when g_s has to start makes the full picture."""
    monkeypatch.setattr(world.codec.model.family, "preview_share", 0.02)
    world.slice_s = 0.004
    picture = world.codec.decode(world.stream, world.deadline(FULL + 0.035))
    assert "g_s" not in picture.skipped and not picture.missed and 0 < picture.steps < picture.steps_total


def test_head_segment_is_decoded_even_when_late(world: World) -> None:
    """A deadline that has passed before the first byte gives a miss, not an exception."""
    picture = world.codec.decode(world.stream, Deadline(world.now - 1.0))
    assert picture.image is None and picture.missed and picture.steps == 0.0
    assert picture.margin_ms is not None and picture.margin_ms <= -1000.0


def test_unmeasured_costs_are_no_obstacle(world: World) -> None:
    """Without experience everything is tried while time is left."""
    world.codec.model.costs = Costs()
    picture = finished(world, world.early, 0.500)
    assert picture.skipped == () and picture.image is not None


# Networks that take longer than believed.


def test_a_run_that_takes_too_long_is_ended_for_a_preview(world: World) -> None:
    """g_s that is stuck is given up while a preview can still be made; how long it was given is remembered."""
    recorded: dict[str, float] = {}
    costs = world.codec.model.costs
    costs.record_ended = lambda stage, pixels, seconds: recorded.update({stage: seconds})  # type: ignore[method-assign]
    world.takes["g_s"] = 9.0
    picture = finished(world, world.stream, 0.050)
    decoder = world.codec.decoder()
    decoder.feed(world.stream)
    assert same(picture.image, decoder.preview())
    assert picture.skipped == ("g_s",) and not picture.missed
    given_s = 0.050 - COSTS["preview"] - COSTS["finish"] - ENDS - SAFETY
    assert picture.timings["g_s"] == pytest.approx(1000 * given_s)
    assert recorded == {"g_s+finish": pytest.approx(given_s), "reconstruct+g_s+finish": pytest.approx(given_s)}


def test_a_preview_made_in_a_wait_is_the_answer_to_a_run_that_takes_too_long(world: World) -> None:
    """With it a full picture may begin later, and no other preview is made; g_s may take all the time there is."""
    assert isinstance(world.codec.model.costs, FixedCosts)
    world.costs["g_s"], world.codec.model.costs.most["g_s"] = 0.100, 0.020
    decoder = world.codec.decoder(world.deadline(1.0))
    decoder.feed(world.stream[: len(world.stream) // 2])
    assert world.codec.decoder().prepare() is False and decoder.prepare() is True and decoder.prepare() is False
    rare = COSTS["reconstruct"] + 0.100 + COSTS["finish"]
    assert decoder.finish_by() == pytest.approx(1001.0 - rare - HAND_OVER - SAFETY)
    decoder.feed(world.stream[len(world.stream) // 2 :])
    world.takes["g_s"], world.now = 9.0, 1000.8
    world.runs.clear()
    picture = decoder.finish()
    assert picture.skipped == ("g_s", "preview") and not picture.missed and picture.image is not None
    assert world.runs == [("g_s", 1)]
    assert picture.margin_ms == pytest.approx(1000 * (HAND_OVER + COSTS["finish"] + SAFETY))


def test_a_preview_is_made_anew_for_a_quarter_more_bytes(world: World) -> None:
    """And never where the full picture needs the time."""
    decoder = world.codec.decoder(world.deadline(1.0))
    made = []
    for end in range(1000, len(world.stream) - 100, 500):
        decoder.feed(world.stream[max(0, end - 500) if end > 1000 else 0 : end])
        if decoder.prepare():
            made.append(end)
    assert len(made) >= 2 and all(later >= 1.25 * earlier for earlier, later in itertools.pairwise(made))
    hurried = world.codec.decoder(world.deadline(FULL + 0.001))
    hurried.feed(world.early)
    assert not hurried.prepare()


def test_a_preview_that_answers_says_what_it_rests_on(world: World) -> None:
    """One that was made of half the bytes does not claim those that were decoded since."""
    half = len(world.stream) // 2
    decoder = world.codec.decoder(world.deadline(1.0))
    decoder.feed(world.stream[:half])
    assert decoder.prepare()
    decoder.feed(world.stream[half:])
    world.takes["g_s"] = 9.0
    picture = decoder.finish()
    early = world.codec.decoder()
    early.feed(world.stream[:half])
    expected = early.finish()
    assert "g_s" in picture.skipped and not picture.missed and not picture.complete
    assert (picture.bytes_used, picture.steps) == (expected.bytes_used, expected.steps)


def test_a_run_that_is_a_little_late_is_not_given_up(world: World) -> None:
    """Where the preview would have to begin before most runs are over, g_s goes on to its end."""
    world.takes["g_s"] = 0.0205
    picture = finished(world, world.stream, 0.022)
    assert picture.skipped == () and not picture.missed and picture.margin_ms == pytest.approx(1.5)


def test_most_runs_are_enough_where_a_preview_can_still_be_made(world: World) -> None:
    """A rare slow run is no reason to leave g_s out: in the rare case the preview answers, in time."""
    assert isinstance(world.codec.model.costs, FixedCosts)
    world.costs["g_s"], world.codec.model.costs.most["g_s"] = 0.100, 0.020
    enough = 0.020 + COSTS["finish"] + COSTS["preview"] + COSTS["finish"] + HAND_OVER + 0.1 * 0.100 + SAFETY
    for takes, skipped in ((0.020, ()), (0.090, ("g_s",))):
        world.takes["g_s"] = takes
        picture = finished(world, world.stream, enough + 1e-4)
        assert picture.skipped == skipped and not picture.missed and picture.image is not None
    assert finished(world, world.stream, enough - 1e-4).skipped == ("g_s",)
    decoder = world.codec.decoder(world.deadline(1.0))
    decoder.feed(world.stream)
    assert decoder.finish_by() == pytest.approx(world.now + 1.0 - min(enough, PREVIEW_FIRST) - COSTS["reconstruct"])


def test_a_preview_comes_first_where_there_is_no_time_for_one_afterwards(world: World) -> None:
    """g_s then has all the time that is left, and a run that takes too long is answered by the preview, in time."""
    assert isinstance(world.codec.model.costs, FixedCosts)
    world.costs["g_s"], world.codec.model.costs.most["g_s"] = 0.100, 0.020
    for takes, skipped in ((0.020, ()), (0.090, ("g_s", "preview"))):
        world.takes["g_s"] = takes
        world.runs.clear()
        picture = finished(world, world.stream, PREVIEW_FIRST + 1e-4)
        assert picture.skipped == skipped and not picture.missed and picture.image is not None
        assert world.runs == [("preview", 1), ("g_s", 1)]
    world.runs.clear()
    assert finished(world, world.stream, PREVIEW_FIRST - COSTS["reconstruct"] - 1e-4).skipped == ("g_s",)
    assert world.runs == [("preview", 1)]


def test_little_time_is_shared_with_decoding(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than ought to be kept for a full picture, but enough for most runs: half of the rest goes into decoding."""
    monkeypatch.setattr("runtime.decoder._SLICE", 256)
    monkeypatch.setattr("runtime.decoder._WORTH_DARING", 1000)
    world.costs["g_s"], world.slice_s = 0.040, 0.0005
    monkeypatch.setattr("runtime.decoder.reserve_s", lambda *_, **__: 0.100)
    monkeypatch.setattr("runtime.decoder.least_s", lambda *_, **__: 0.060)
    decoder = world.codec.decoder(world.deadline(0.080))
    decoder.feed(world.stream)
    assert world.now == pytest.approx(1000.010, abs=0.002)
    picture = decoder.finish()
    assert picture.skipped == () and not picture.missed and 0 < picture.steps < picture.steps_total


@pytest.mark.parametrize(("came", "least_left"), [(1.0, 0.060), (0.55, 0.100)])
def test_many_bytes_that_wait_are_worth_a_later_start(
    world: World, monkeypatch: pytest.MonkeyPatch, came: float, least_left: float
) -> None:
    """When g_s ought to start, a quarter more bytes than are decoded may still be decoded, fewer may not."""
    monkeypatch.setattr("runtime.decoder._SLICE", 256)
    monkeypatch.setattr("runtime.decoder.reserve_s", lambda *_, **__: 0.100)
    monkeypatch.setattr("runtime.decoder.least_s", lambda *_, **__: 0.060)
    decoder = world.codec.decoder(world.deadline(1.0))
    half = len(world.stream) // 2
    decoder.feed(world.stream[:half])
    world.now, world.slice_s = 1000.900, 0.001
    decoder.feed(world.stream[half : int(came * len(world.stream))])
    assert 1001.0 - world.now == pytest.approx(least_left, abs=0.002)


def test_a_slow_hand_over_is_remembered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the end of a wait for g_s came late, as on a busy machine, runs are left earlier from then on."""
    costs = world.codec.model.costs = Costs()
    for stages, seconds in (("reconstruct+g_s+finish", 0.023), ("g_s+finish", 0.021), ("finish", COSTS["finish"])):
        for _ in range(30):
            costs.record(stages, 512 * 768, seconds)
    costs.record("g_s", 512 * 768, 0.020)
    world.takes["g_s"] = 9.0
    run = world.codec.model.run

    def woken_late(role: str, *inputs: NDArray[np.float32], until: float | None = None) -> Any:
        try:
            return run(role, *inputs, until=until)
        except OutOfTime:
            world.now += 0.006
            raise

    monkeypatch.setattr(world.codec.model, "run", woken_late)
    margins = [finished(world, world.stream, 0.040, preview=True).margin_ms for _ in range(3)]
    assert margins[0] is not None and margins[0] < 0
    assert margins[2] is not None and margins[2] > 0


def test_a_stage_left_out_is_tried_again(world: World) -> None:
    """An estimate that keeps g_s from running is doubted until it runs; then what it really takes is known."""
    costs = world.codec.model.costs = Costs()
    for stages in ("reconstruct+g_s+finish", "g_s+finish"):
        for _ in range(30):
            costs.record(stages, 512 * 768, 0.052)
    costs.record("g_s", 512 * 768, 0.050)
    world.takes["g_s"] = 0.020
    skipped = [finished(world, world.stream, 0.050).skipped for _ in range(100)]
    first = skipped.index(())
    assert 20 < first < 90 and set(skipped[:first]) == {("g_s",)} and set(skipped[first:]) == {()}


@pytest.mark.parametrize("instant", [math.inf, 1e13])
def test_a_deadline_may_be_as_far_as_one_likes(codec: Codec, stream: bytes, instant: float) -> None:
    """Further than any thread can wait; networks have run before, so that one could be given up."""
    picture = [codec.decode(stream, Deadline(instant)) for _ in range(3)][-1]
    assert picture.complete and not picture.missed


def test_engines_give_up_in_time(codec: Codec, stream: bytes) -> None:
    """A run with no time is not begun, one with too little is ended, and afterwards the engine runs as before."""
    model = codec.model
    y_hat = np.zeros((1, 192, 64, 64), np.float32)
    (expected,) = model.run("g_s", y_hat, y_hat)
    for left_s in (-1.0, 0.001):
        with pytest.raises(OutOfTime):
            model.run("g_s", y_hat, y_hat, until=model.clock() + left_s)
    (again,) = model.run("g_s", y_hat, y_hat, until=model.clock() + 600)
    assert (again == expected).all()
