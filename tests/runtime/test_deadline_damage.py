"""Damage that is found when a deadline has ended decoding, or when a preview of it was made.

Clock and costs are made up, as in test_deadline.py.
"""

from __future__ import annotations

from types import ModuleType

import pytest
from clockwork import FULL, World

from runtime.families.planes import PlaneLatents
from runtime.stream import Header, Limits


@pytest.mark.parametrize("late_at", [700, 1400])
@pytest.mark.parametrize("verified", [0, 2052])
def test_damage_found_late_is_taken_back(
    world: World, make_golden: ModuleType, monkeypatch: pytest.MonkeyPatch, verified: int, late_at: int
) -> None:
    """What a late decoder has of a frame that turns out damaged goes; what came before the frame stays."""
    start = Header.from_bytes(world.stream, Limits()).body_start + verified
    damaged = make_golden.flipped(world.stream, start + 100, 3)
    monkeypatch.setattr("runtime.decoder._SLICE", 512)
    decoder = world.codec.decoder(world.deadline(1.0))
    for begin, end in ((0, start + 30), (start + 30, start + 31), (start + 31, start + late_at)):
        decoder.feed(damaged[begin:end])
    world.now += 1.0 - FULL + 0.0004  # no time to decode, but for the picture
    decoder.feed(damaged[start + late_at : start + 2000])
    assert decoder._latents is not None
    before = decoder._latents.steps
    decoder.feed(damaged[start + 2000 : start + 2052])
    assert before > decoder._latents.steps
    good = world.codec.decoder()
    good.feed(world.stream[:start])
    assert isinstance(decoder._latents, PlaneLatents) and isinstance(good._latents, PlaneLatents)
    assert decoder._latents.y is not None and good._latents.y is not None
    assert (decoder._latents.y.nodes == good._latents.y.nodes).all()
    picture, expected = decoder.finish(), good.finish()
    assert (picture.damaged, picture.complete, picture.missed) == (True, False, False)
    assert picture.steps == expected.steps
    assert expected.bytes_used - 4 <= picture.bytes_used <= expected.bytes_used  # a checksum may count or not


@pytest.mark.parametrize("left_s", [0.002, 0.010])
def test_a_preview_of_bytes_that_turn_out_damaged_does_not_answer(
    world: World, make_golden: ModuleType, left_s: float
) -> None:
    """Where nothing but the last preview is left it must not show what the checksum has refused since."""
    start = Header.from_bytes(world.stream, Limits()).body_start
    damaged = make_golden.flipped(world.stream, start + 100, 3)
    decoder = world.codec.decoder(world.deadline(1.0))
    decoder.feed(damaged[: start + 2000])
    assert decoder.prepare() and decoder.deadline is not None
    world.now = decoder.deadline.instant - left_s
    decoder.feed(damaged[start + 2000 : start + 2052])
    picture = decoder.finish()
    assert picture.damaged and picture.bytes_used <= picture.bytes_verified == start
    assert (picture.image is None) == picture.missed == (left_s == 0.002)


def test_a_preview_of_bytes_that_are_right_outlives_damage_behind_them(world: World, make_golden: ModuleType) -> None:
    """What rests on verified bytes alone answers as before."""
    start = Header.from_bytes(world.stream, Limits()).body_start
    damaged = make_golden.flipped(world.stream, start + 2052 + 100, 3)
    decoder = world.codec.decoder(world.deadline(1.0))
    decoder.feed(damaged[: start + 2052])
    assert decoder.prepare() and decoder.deadline is not None
    world.now = decoder.deadline.instant - 0.0001
    decoder.feed(damaged[start + 2052 : start + 2 * 2052])
    picture = decoder.finish()
    assert picture.damaged and picture.image is not None and not picture.missed
    assert picture.bytes_used <= picture.bytes_verified


def test_damage_found_late_that_reaches_into_another_step_begins_anew(world: World, make_golden: ModuleType) -> None:
    """What a family made of damaged symbols cannot be taken back; the picture then rests on the head segment alone."""
    start = Header.from_bytes(world.stream, Limits()).body_start
    damaged = make_golden.flipped(world.stream, start + 100, 3)
    decoder = world.codec.decoder(world.deadline(1.0))
    decoder.feed(damaged[: start + 2000])
    assert decoder._latents is not None and decoder._latents.steps > 1
    world.now += 1.0 - FULL + 0.0004
    decoder.feed(damaged[start + 2000 : start + 2052])
    picture = decoder.finish()
    expected = world.codec.decode(world.stream[:start])
    assert picture.damaged and (picture.steps, picture.bytes_used) == (expected.steps, expected.bytes_used) == (
        0,
        start,
    )
