"""Several decoders finished together: which share a run, that none is late for it, and that one's fault is its own.

Clock and costs are made up, as in the tests of deadlines.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from clockwork import World, clockwork

from engines.costs import Costs
from engines.errors import EngineError
from runtime import Codec, CutoffError, Deadline, Decoder, Picture
from runtime.batch import finish_together, start_by
from runtime.errors import Cancelled, Incomplete, StreamError
from runtime.reserves import SAFETY_S

COSTS = {"g_s": 0.020, "g_s x2": 0.024, "g_s x4": 0.030, "preview": 0.003}
LENGTHS = (3000, 4000, 5000, 6000)  # of the stream: complete enough to need no postprocessing


@pytest.fixture
def world(make_golden: ModuleType) -> Iterator[World]:
    """The tiny bundle on a made-up clock, with batches of two and four that pay."""
    stream = (make_golden.HERE / "valid" / "frames.cut").read_bytes()
    with clockwork(make_golden.HERE / "tiny", stream, dict(COSTS)) as made:
        yield made


def decoders(world: World, *left_s: float | None) -> list[Decoder]:
    """Return decoders, fed in good time, that have *left_s* until their deadlines now."""
    made = []
    for place, left in enumerate(left_s):
        decoder = world.codec.decoder(None if left is None else Deadline(world.now + left))
        decoder.feed(world.stream[: len(world.stream) - 100 * place])
        made.append(decoder)
    world.runs.clear()
    return made


def pictures(some: list[Decoder]) -> list[Picture]:
    """Finish *some* together, and return their pictures in the order of *some*."""
    results = dict(finish_together(some))
    assert len(results) == len(some)
    return [picture_of(results[one]) for one in some]


def picture_of(result: Picture | CutoffError) -> Picture:
    assert isinstance(result, Picture)
    return result


def runs(world: World) -> list[tuple[str, int]]:
    return [run for run in world.runs if run[0] != "h_s"]


# What shares a run.


def test_pictures_of_one_size_share_a_run_of_each_network(world: World) -> None:
    """Five are a batch of four and one alone, and each is the picture that it would be alone."""
    some = decoders(world, *[1.0] * 5)
    together = pictures(some)
    assert runs(world) == [("g_s", 4), ("g_s", 1)]
    for picture, one in zip(together, decoders(world, *[None] * 5), strict=True):
        alone = one.finish()
        assert picture.image is not None and alone.image is not None
        assert np.abs(picture.image.astype(int) - alone.image.astype(int)).max() <= 1
        assert (picture.bytes_used, picture.steps, picture.skipped) == (alone.bytes_used, alone.steps, alone.skipped)
        assert not picture.missed and {"g_s", "reconstruct", "finish", "total"} <= picture.timings.keys()


def test_optional_passes_are_shared_or_left_out_together(world: World) -> None:
    """Pictures that need postprocessing have it in one run where there is time, and else g_s in one run."""
    world.costs["post_low"] = 0.010
    for left_s, skipped in ((1.0, ()), (0.030, ("post_low",))):
        some = [world.codec.decoder(world.deadline(left_s)) for _ in range(2)]
        for one in some:
            one.feed(world.early)
        world.runs.clear()
        assert [picture.skipped for picture in pictures(some)] == [skipped] * 2
        assert runs(world) == [("g_s", 2)] + [("post_low", 2)] * (not skipped)


def test_those_that_need_other_networks_are_apart(world: World) -> None:
    """Pictures that are refined and such that are not do not share a run."""
    early = [world.codec.decoder() for _ in range(2)]
    for one in early:
        one.feed(world.early)
    complete = decoders(world, None, None)
    assert len(pictures([complete[0], early[0], complete[1], early[1]])) == 4
    assert sorted(runs(world)) == [("g_s", 2), ("g_s", 2), ("post_low", 2)]


def test_sizes_do_not_mix(world: World, golden: dict[str, bytes]) -> None:
    """Pictures of another size are made on their own, and batched among themselves."""
    others = [world.codec.decoder(world.deadline(1.0)) for _ in range(2)]
    for one in others:
        one.feed(golden["rgb"])
    some = decoders(world, 1.0, 1.0)
    results = pictures([some[0], others[0], some[1], others[1]])
    assert [run for run in runs(world) if run[0] == "g_s"] == [("g_s", 2), ("g_s", 2)]
    assert [one.image is not None and one.image.shape[0] for one in results] == [512, 70, 512, 70]


def test_a_batch_that_takes_longer_is_not_made(world: World) -> None:
    """On a device that gains nothing by batches, pictures are made one by one."""
    world.costs.update({"g_s x2": 0.039, "g_s x4": 0.085, "g_s x8": 1.0})
    pictures(decoders(world, *[None] * 8))
    assert runs(world) == [("g_s", 1)] * 8


def test_batches_are_tried_until_they_are_known(world: World) -> None:
    """What was never measured is tried where there is ample time, and kept if it paid."""
    costs = world.codec.model.costs = Costs()
    for _ in range(6):
        costs.record("g_s", 768 * 512, COSTS["g_s"])
    for _ in range(6):
        pictures(decoders(world, 10.0, 10.0))
    assert runs(world) == [("g_s", 2)] and costs.typical_s("g_s x2", 768 * 512) == pytest.approx(COSTS["g_s x2"])
    world.costs["g_s x4"] = 0.100
    for _ in range(4):
        pictures(decoders(world, *[10.0] * 4))
        assert runs(world) == [("g_s", 4)]
    pictures(decoders(world, *[10.0] * 4))
    assert runs(world) == [("g_s", 2)] * 2


# Deadlines.


def test_the_most_urgent_comes_first(world: World) -> None:
    world.costs.update({"g_s x2": 1.0, "g_s x4": 2.0})
    some = decoders(world, 0.9, None, 0.3, 0.6)
    assert [some.index(one) for one, _ in finish_together(some)] == [2, 3, 0, 1]


def test_no_batch_makes_anybody_late(world: World) -> None:
    """Who has no time for the batch is made alone before it."""
    some = decoders(world, 0.022, 1.0, 1.0)
    assert [(picture.skipped, picture.missed) for picture in pictures(some)] == [((), False)] * 3
    assert runs(world) == [("g_s", 1), ("g_s", 2)]


def test_a_batch_does_not_push_out_another_size(world: World, golden: dict[str, bytes]) -> None:
    """A picture that would come in time one by one is not late because two others were made together."""
    world.costs["g_s x2"] = 0.037
    some = decoders(world, 0.021 + SAFETY_S, 0.100)
    other = world.codec.decoder(world.deadline(0.044))
    other.feed(golden["rgb"])
    world.runs.clear()
    results = pictures([*some, other])
    assert not any(picture.missed or picture.skipped for picture in results)


def test_too_many_for_the_time_get_previews_not_misses(world: World) -> None:
    """Under a deadline that all share, those for whom g_s does not fit are shown a preview, and none is late."""
    world.costs.update({"g_s x2": 0.038, "g_s x4": 0.076, "g_s x8": 1.0})
    results = pictures(decoders(world, *[0.050] * 6))
    full = [picture for picture in results if not picture.skipped]
    assert len(full) == 1 and all(picture.image is not None and not picture.missed for picture in results)
    assert [picture.skipped for picture in results if picture.skipped] == [("g_s",)] * 5


def test_hopeless_deadlines_cost_others_nothing(world: World) -> None:
    """A deadline that has passed is an explicit miss, and the next picture is made as if it were alone."""
    hopeless, hopeful = pictures(decoders(world, -1.0, 0.022))
    assert hopeless.missed and hopeless.image is None
    assert not hopeful.missed and hopeful.skipped == ()


def test_each_picture_comes_as_soon_as_it_is_there(world: World) -> None:
    """The margin of a picture is that of the moment it is handed out, not of the last one."""
    world.costs.update({"g_s x2": 1.0})
    some = decoders(world, 0.1, 0.2)
    seen = [(picture_of(result).margin_ms, world.now) for _, result in finish_together(some)]
    assert [margin for margin, _ in seen] == [pytest.approx(80), pytest.approx(160)]
    assert seen[1][1] - seen[0][1] == pytest.approx(COSTS["g_s"])


# By when to start.


def test_start_by_leaves_time_for_all(world: World) -> None:
    """Who starts together at that instant makes every picture in full; a little later somebody does not."""
    for left_s in ((0.5, 0.5), (0.5, 0.51, 0.52, 0.53), (0.5, 0.505, 0.9), (0.5,)):
        for late_s, full in ((-1e-6, True), (1e-3, False)):
            some = decoders(world, *left_s)
            latest = start_by(some)
            assert latest is not None
            world.now = latest + late_s
            results = pictures(some)
            assert not any(picture.missed for picture in results)
            assert all(picture.skipped == () for picture in results) == full


def test_start_by_of_one_is_finish_by(world: World) -> None:
    (one,) = decoders(world, 0.5)
    assert start_by([one]) == one.finish_by()


def test_start_by_without_deadlines_or_heads(world: World) -> None:
    """Who has no deadline can wait; of whom nothing is known but the deadline, that is when to look."""
    assert start_by([]) is None
    assert start_by(decoders(world, None, None)) is None
    waiting = world.codec.decoder(world.deadline(0.5))
    assert start_by([waiting]) == waiting.finish_by() == pytest.approx(world.now + 0.5, abs=0.001)
    assert start_by([*decoders(world, 9.0), waiting]) == waiting.finish_by()


# Faults.


def test_one_fault_is_nobody_elses(world: World) -> None:
    """What is incomplete, damaged or cancelled is told of that decoder alone."""
    good, other, incomplete = (world.codec.decoder() for _ in range(3))
    damaged, cancelled = world.codec.decoder(strict=True), world.codec.decoder()
    for one in (good, other, cancelled):
        one.feed(world.stream)
    incomplete.feed(world.stream[:40])
    damaged.feed(world.stream[:-500] + bytes(500))
    cancelled.cancel()
    results = dict(finish_together([incomplete, good, damaged, cancelled, other]))
    assert isinstance(results[incomplete], Incomplete) and isinstance(results[damaged], StreamError)
    assert isinstance(results[cancelled], Cancelled)
    assert picture_of(results[good]).complete and picture_of(results[other]).complete


def test_a_picture_that_takes_too_long_is_dropped_from_the_batch(world: World) -> None:
    """Who exceeds the limit of time does so alone."""
    some = decoders(world, None, None)
    some[0]._watch.add("total", 1e9)
    results = dict(finish_together(some))
    assert "decoding has taken" in str(results[some[0]]) and picture_of(results[some[1]]).image is not None


def test_a_batch_that_hangs_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pictures are missed, soon after the last of their deadlines, and the cost model hears of it."""
    some, began = decoders(world, 0.100, 0.120), world.now
    world.takes["g_s"] = 5.0
    ended: list[str] = []
    monkeypatch.setattr(world.codec.model.costs, "record_ended", lambda stage, pixels, seconds: ended.append(stage))
    together = pictures(some)
    assert all(picture.missed and picture.image is None for picture in together)
    assert runs(world) == [("g_s", 2)] and ended == ["g_s x2"]
    assert 0.120 < world.now - began < 0.200


def test_networks_that_fail_on_a_batch_run_one_by_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has no memory for two pictures may have it for one: a batch is tried, then each alone."""
    some, run = decoders(world, None, None), world.codec.model.run
    tried: list[tuple[str, int]] = []

    def small(role: str, *inputs: np.ndarray, until: float | None = None) -> object:
        tried.append((role, len(inputs[0])))
        if len(inputs[0]) > 1:
            raise EngineError("out of memory")
        return run(role, *inputs, until=until)

    monkeypatch.setattr(world.codec.model, "run", small)
    first, second = pictures(some)
    assert tried == [("g_s", 2), ("g_s", 1), ("g_s", 1)]
    assert first.complete and first.image is not None and second.image is not None


def test_nobody_is_nothing() -> None:
    assert list(finish_together([])) == []


def test_shipped_bundles_run_in_batches(codec: Codec, stream: bytes, tmp_path: Path) -> None:
    """Free graphs take several pictures; each comes out as it would alone."""
    codec.model.costs = Costs()
    some = [codec.decoder() for _ in range(2)]
    for place, one in enumerate(some):
        one.feed(stream[: len(stream) - 700 * place])
    together = pictures(some)
    assert codec.model.costs.runs("g_s x2", 512 * 320) == 1
    for place, picture in enumerate(together):
        alone = codec.decode(stream[: len(stream) - 700 * place])
        assert picture.image is not None and alone.image is not None
        assert np.abs(picture.image.astype(int) - alone.image.astype(int)).max() <= 1


def test_one_thread_feeds_while_another_finishes(tiny_codec: Codec, golden: dict[str, bytes]) -> None:
    """Entropy decoding and synthesis of different pictures go on side by side, and each picture is what it was."""
    names = ["frames", "rgb", "example"] * 4  # the last is grey
    expected = {name: tiny_codec.decode(golden[name]).image for name in names}
    ready: queue.Queue[Decoder] = queue.Queue(2)

    def feed() -> None:
        for name in names:
            decoder = tiny_codec.decoder()
            decoder.feed(golden[name])
            ready.put(decoder)

    feeding = threading.Thread(target=feed)
    feeding.start()
    for name in names:
        ((_, result),) = finish_together([ready.get(timeout=60)])
        assert (picture_of(result).image == expected[name]).all()
    feeding.join(60)
