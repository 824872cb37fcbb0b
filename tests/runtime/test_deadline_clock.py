"""Deadlines on the real clock, and what running teaches of costs."""

from __future__ import annotations

import time
from types import ModuleType

from engines.costs import Costs
from runtime import Codec, Deadline


def test_deadline_counts_down_on_the_monotonic_clock() -> None:
    """A deadline is an instant; what is left falls, and goes below zero."""
    before = time.monotonic()
    deadline = Deadline.after_ms(250)
    assert before + 0.250 <= deadline.instant <= time.monotonic() + 0.250
    left = deadline.left_s()
    assert left <= 0.250 and deadline.left_s() <= left
    assert Deadline(before - 1).left_s() < -1 + 1e-9


def test_running_teaches_the_costs(make_golden: ModuleType) -> None:
    """Every stage that ran is known afterwards for the picture's padded size."""
    with Codec.open(make_golden.HERE / "tiny", threads=1) as codec:
        codec.model.costs = Costs()
        codec.decode((make_golden.HERE / "valid" / "rgb.cut").read_bytes())
        for stage in ("entropy", "reconstruct", "g_s", "finish"):
            assert codec.model.costs.runs(stage, 128 * 192) > 0
            assert codec.model.costs.estimate_s(stage, 128 * 192) > 0


def test_warming_measures_every_stage(make_golden: ModuleType) -> None:
    """After `warm` all graphs are open, and every stage of a decoder has a cost."""
    with Codec.open(make_golden.HERE / "tiny", threads=1) as codec:
        codec.model.costs = Costs()
        codec.warm(100, 60)
        for stage in ("entropy", "step", "reconstruct", "g_s", "post_low", "preview", "finish"):
            assert codec.model.costs.runs(stage, 128 * 64) > 0, stage


def test_rehearsing_measures_what_decoding_takes(make_golden: ModuleType) -> None:
    """A prefix that was rehearsed is decoded by measured costs, and nothing was encoded for that."""
    with Codec.open(make_golden.HERE / "tiny", threads=1) as codec:
        codec.model.costs = Costs()
        codec.rehearse((make_golden.HERE / "valid" / "rgb.cut").read_bytes())
        for stage, runs in (("entropy", 3), ("reconstruct", 6), ("g_s", 3), ("preview", 3), ("g_a", 0)):
            assert codec.model.costs.runs(stage, 128 * 192) == runs, stage


def test_generous_deadline_changes_no_pixel(codec: Codec, stream: bytes) -> None:
    """With a minute to spare a deadline is as none."""
    picture, free = codec.decode(stream, Deadline.after_ms(60_000)), codec.decode(stream)
    assert picture.image is not None and free.image is not None and (picture.image == free.image).all()
    assert picture.complete and not picture.missed
    assert picture.margin_ms is not None and 0 < picture.margin_ms < 60_000
