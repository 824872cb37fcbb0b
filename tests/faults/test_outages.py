"""Links that break or fall silent, between a real client and a real server: nothing that was spooled is lost."""

from __future__ import annotations

import time

import pytest
from plant import SCALE, Plant, wait_until

from runtime.shaped_link import Conditions, ShapedLink, steady


@pytest.mark.parametrize("how", ["cut", "silence"])
def test_what_was_taken_in_an_outage_arrives_after_it(plant: Plant, how: str) -> None:
    """The client notices, spools, connects again, and resends; every picture ever taken is whole in the end."""
    server = plant.server().start().wait_ready()
    link = ShapedLink(("127.0.0.1", server.port), steady(2e6), Conditions(delay_s=0.01))
    with link.in_thread() as port:
        camera = plant.camera(port).start()
        wait_until(lambda: len(plant.whole()) >= 3, "frames arrive")
        getattr(link, how)()
        ends = time.monotonic() + SCALE.outage_s
        wait_until(lambda: len(plant.spooled() - plant.whole()) >= SCALE.frames, "frames wait in the spool")
        wait_until(lambda: time.monotonic() > ends, "the outage ends")
        waiting = plant.spooled()
        link.restore()
        wait_until(lambda: waiting <= plant.whole(), "all that waited is stored")
        assert camera.stop() == 0
        everything = plant.whole() | plant.spooled()
    assert everything == set(range(min(everything), max(everything) + 1))
    assert server.stop() == 0


def test_a_slow_link_that_loses_segments(plant: Plant) -> None:
    """At 64 kbit/s, with 200 ms of delay and losses, frames with a second's deadline are answered in time."""
    server = plant.server().start().wait_ready()
    link = ShapedLink(("127.0.0.1", server.port), steady(64_000), Conditions(delay_s=0.2, loss=0.05, seed=5))
    with link.in_thread() as port:
        camera = plant.camera(port, {"sending": {"deadline_s": 1.5}, "source": {"fps": 3.0}}).start()
        wait_until(lambda: server.metric("cutoff_server_margin_milliseconds_count") >= 12, "frames are answered")
        assert camera.metric("cutoff_edge_link_round_trip_seconds") > 0.1  # of 0.4: chunks and losses blur it
        assert camera.stop() == 0
        everything = plant.kept().keys() | plant.spooled()
    answered = server.metrics()
    good = sum(value for key, value in answered.items() if 'status="ok"' in key or 'status="preview"' in key)
    assert good >= 6
    assert everything == set(range(min(everything), max(everything) + 1))
