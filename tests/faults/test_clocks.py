"""Clocks of the day that jump: no deadline, no sequence and no age rests on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from plant import SCALE, Plant, wait_until

JUMPING = str(Path(__file__).parents[1] / "shared" / "jumping_clock.py")
DAY = 86_400
long = pytest.mark.skipif(not SCALE.long, reason="takes long: make faults")


@pytest.mark.parametrize("days", [-400, pytest.param(400, marks=long)])
def test_a_camera_whose_clock_jumps(plant: Plant, days: int) -> None:
    """Frames go on being answered in time, and their numbers go on, through the jump and through a restart."""
    offset = plant.folder / "offset"
    server = plant.server().start().wait_ready()
    camera = plant.camera(server.port, words=(JUMPING, str(offset), "edge")).start()
    wait_until(lambda: len(plant.whole()) >= 3, "frames arrive")
    offset.write_text(str(days * DAY))
    known = plant.kept().keys() | plant.spooled()
    wait_until(lambda: len(plant.whole() - known) >= 8, "frames arrive after the jump")
    assert camera.stop() == 0
    before = plant.kept().keys() | plant.spooled()
    assert before == set(range(min(before), max(before) + 1))
    camera.start()
    wait_until(lambda: len(plant.whole() - before) >= 3, "frames arrive after a restart")
    assert min(plant.kept().keys() - before) > max(before)
    answers = camera.metrics()
    good = sum(
        value
        for key, value in answers.items()
        if key.startswith("cutoff_edge_answers_total") and ("ok" in key or "preview" in key)
    )
    assert good >= 2


def test_a_server_whose_clock_jumps_forward_and_back(plant: Plant) -> None:
    """It answers as before, and deletes nothing of what came by a clock that was right."""
    offset = plant.folder / "offset"
    store = {"store": {"days": 30.0, "trim_days": 7.0, "every_s": 0.2}}
    server = plant.server(store, words=(JUMPING, str(offset), "serve")).start().wait_ready()
    camera = plant.camera(server.port).start()
    wait_until(lambda: len(plant.whole()) >= 3, "frames arrive")
    before = plant.whole()
    for days in (400, 0):
        offset.write_text(str(days * DAY))
        known = plant.kept().keys()
        wait_until(lambda known=known: len(plant.kept().keys() - known) >= 5, "frames arrive after a jump")
    assert before <= plant.whole()
    assert camera.stop() == 0
