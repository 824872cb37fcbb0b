"""A receiver over many frames on a machine that is made up: stalls, other load, and what the cost model learns of them.

Durations are drawn with a seed; costs are learned from them as on a real machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from clockwork import World, clockwork

from engines.costs import Costs
from runtime import Picture

USUAL = {"g_s": 0.025, "preview": 0.003}
ROOMY_S = 0.050


class Machine:
    """Frames of a camera, each with its deadline; half of its bytes have arrived when a full picture has to begin."""

    def __init__(self, world: World) -> None:
        self.world, self.slower, self._random = world, 1.0, np.random.default_rng(2026)

    def frame(self, left_s: float, stall_s: float = 0.0, *, prepared: bool = False) -> Picture:
        """Wait for `finish_by` and finish; g_s stalls for *stall_s*. With *prepared*, the wait makes a preview."""
        for role, seconds in USUAL.items():
            spread = float(self._random.lognormal(0.0, 0.05))
            self.world.takes[role] = self.slower * seconds * spread + (stall_s if role == "g_s" else 0.0)
        decoder = self.world.codec.decoder(self.world.deadline(left_s))
        decoder.feed(self.world.stream[: len(self.world.stream) // 2])
        if prepared:
            decoder.prepare()
        finish_by = decoder.finish_by()
        assert finish_by is not None
        self.world.now = max(self.world.now, finish_by) + float(self._random.exponential(0.0001))
        return decoder.finish()

    def frames(self, count: int, left_s: float) -> list[Picture]:
        return [self.frame(left_s) for _ in range(count)]


@pytest.fixture
def machine(make_golden: ModuleType) -> Iterator[Machine]:
    """The tiny bundle, having learned from thirty frames and previews."""
    stream = (make_golden.HERE / "valid" / "rgb.cut").read_bytes()
    with clockwork(make_golden.HERE / "tiny", stream, {}) as world:
        world.codec.model.costs = Costs()
        world.codec.model.family.post = ()  # type: ignore[attr-defined]
        made = Machine(world)
        made.frames(30, 1.0)
        made.frames(30, 0.010)
        yield made


def full(pictures: list[Picture]) -> int:
    return sum(not picture.skipped for picture in pictures)


def test_roomy_frames_are_full_pictures_in_time(machine: Machine) -> None:
    """Of many frames none is late, and hardly one is a preview, though each is begun as late as can be."""
    pictures = machine.frames(300, ROOMY_S)
    assert not any(picture.missed for picture in pictures)
    assert full(pictures) >= 0.95 * len(pictures)
    margins = [picture.margin_ms for picture in pictures if picture.margin_ms is not None]
    assert np.median(margins) < 12  # what is kept for the rare case is no second synthesis


def test_tight_frames_are_previews_in_time(machine: Machine) -> None:
    pictures = machine.frames(100, 0.012)
    assert not any(picture.missed for picture in pictures) and full(pictures) == 0


def test_a_stall_is_one_preview_and_nothing_else(machine: Machine) -> None:
    """A frame on which g_s hangs is answered in time by the preview that the wait had made; those after it as ever."""
    machine.frames(50, ROOMY_S)
    hung = machine.frame(0.200, stall_s=5.0, prepared=True)
    assert not hung.missed and hung.skipped == ("g_s", "preview") and hung.image is not None
    after = machine.frames(100, ROOMY_S)
    assert full(after) >= 95 and not any(picture.missed for picture in after)


def test_a_stall_without_a_preview_is_given_up(machine: Machine) -> None:
    """Where nothing was prepared, a run that hangs costs its own picture, and the next ones little."""
    machine.frames(50, ROOMY_S)
    hung = machine.frame(0.200, stall_s=5.0)
    assert hung.missed and hung.skipped == ("g_s", "preview") and hung.image is None
    assert hung.margin_ms is not None and -80 < hung.margin_ms < 0
    after = machine.frames(100, ROOMY_S)
    assert full(after) >= 95 and not any(picture.missed for picture in after)


def test_a_picture_that_is_hardly_late_is_shown(machine: Machine) -> None:
    """A run that ends a little after the deadline gives its picture, which is late."""
    machine.frames(50, ROOMY_S)
    late = machine.frame(0.200, stall_s=0.020)
    assert late.missed and late.skipped == () and late.image is not None
    assert late.margin_ms is not None and -30 < late.margin_ms < 0


def test_a_machine_that_becomes_busy_costs_few_frames(machine: Machine) -> None:
    """When everything takes thrice as long, frames with time enough are late a few times only, then in time again."""
    machine.frames(50, ROOMY_S)
    machine.slower = 3.0
    pictures = machine.frames(100, 0.150)
    assert sum(picture.missed for picture in pictures) <= 4
    assert not any(picture.missed for picture in pictures[20:]) and full(pictures[20:]) >= 72


def test_a_machine_that_is_free_again_is_noticed(machine: Machine) -> None:
    """Frames for which a busy machine had no time become full pictures again, though nothing was measured meanwhile."""
    machine.slower = 3.0
    machine.frames(200, 0.150)
    assert full(machine.frames(10, ROOMY_S)) == 0
    machine.slower = 1.0
    pictures = machine.frames(600, ROOMY_S)
    assert full(pictures[-50:]) >= 45
    assert sum(picture.missed for picture in pictures) <= 3
