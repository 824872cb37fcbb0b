"""Processes that end without a word, as in a power cut."""

from __future__ import annotations

from plant import SCALE, Plant, wait_until


def test_a_server_that_was_killed_keeps_what_it_acknowledged_and_gets_the_rest(plant: Plant) -> None:
    """What it said was stored still is, and what was sent to nobody meanwhile comes when it is back."""
    server = plant.server().start().wait_ready()
    camera = plant.camera(server.port).start()
    wait_until(lambda: len(plant.whole()) >= 3, "frames arrive")
    forgotten = plant.whole() - plant.spooled()  # the client rests on the server's word
    server.kill()
    wait_until(lambda: len(plant.spooled() - plant.whole()) >= SCALE.frames, "frames wait in the spool")
    assert forgotten <= plant.whole()
    waiting = plant.spooled()
    server.start().wait_ready()
    wait_until(lambda: waiting <= plant.whole(), "all that waited is stored")
    assert camera.stop() == 0
    assert forgotten <= plant.whole()
    everything = plant.whole() | plant.spooled()
    assert everything == set(range(min(everything), max(everything) + 1))


def test_a_client_that_was_killed_goes_on_with_its_spool(plant: Plant) -> None:
    """What lay in the spool arrives, and new frames never get old numbers."""
    server = plant.server().start().wait_ready()
    camera = plant.camera(server.port).start()
    for _ in range(2):
        before = plant.whole()
        wait_until(lambda before=before: len(plant.whole() - before) >= 3, "frames arrive")
        server.kill()
        wait_until(lambda: len(plant.spooled() - plant.whole()) >= SCALE.frames, "frames wait in the spool")
        camera.kill()
        waiting, known = plant.spooled(), plant.spooled() | plant.kept().keys()
        server.start().wait_ready()
        camera.start()
        wait_until(lambda waiting=waiting: waiting <= plant.whole(), "all that waited is stored")
        wait_until(lambda known=known: plant.whole() - known, "new frames arrive")
        assert min((plant.kept().keys() | plant.spooled()) - known) > max(known)
    assert camera.stop() == 0
