"""Two hosts and a link of packets between them: TCP as it is, with retransmissions and a congestion window."""

from __future__ import annotations

import pytest
from namespaces import FAR_ADDRESS, two_hosts, why_not
from plant import SCALE, Plant, wait_until

from runtime.shaped_link import Conditions, steady

long = pytest.mark.skipif(not SCALE.long, reason="takes long: make faults")


@pytest.fixture(scope="module", autouse=True)
def _allowed() -> None:
    missing = why_not()
    if missing is not None:
        pytest.skip(f"no link of packets can be made here: {missing}")


@pytest.mark.parametrize("bits_per_s", [64e3, pytest.param(512e3, marks=long), pytest.param(10e6, marks=long)])
def test_a_slow_link_with_delay_and_loss(plant: Plant, bits_per_s: float) -> None:
    """200 ms each way and 5 % of packets lost: frames are answered in time, and whatever was spooled arrives."""
    conditions = Conditions(delay_s=0.2, loss=0.05, queue_bytes=max(12_000, int(bits_per_s / 16)), seed=2)
    with two_hosts(steady(bits_per_s), conditions) as hosts:
        server = plant.server({"listen": {"host": FAR_ADDRESS}}, prefix=hosts.far).start()
        wait_until(lambda: "running on" in server.said(), "the server has started")
        camera = plant.camera(
            server.port,
            {
                "sending": {"deadline_s": 2.0},
                "source": {"fps": 2.0},
                "server": {"connect_s": 10.0, "silence_s": 20.0, "plain": True},
            },
            host=FAR_ADDRESS,
            prefix=hosts.near,
        ).start()
        wait_until(lambda: len(plant.kept()) >= 8, "frames arrive", 2 * SCALE.patience_s)
        waiting = plant.spooled()
        wait_until(lambda: waiting <= plant.whole(), "all that waited is stored", 2 * SCALE.patience_s)
        wait_until(lambda: hosts.up.lost + hosts.down.lost > 0, "a packet is lost", SCALE.patience_s)
        assert camera.stop() == 0
        everything = plant.kept().keys() | plant.spooled()
        assert server.stop() == 0
    assert everything == set(range(min(everything), max(everything) + 1))
    statuses = plant.statuses()
    assert statuses.get("ok", 0) + statuses.get("preview", 0) >= 3
