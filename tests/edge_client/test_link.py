"""Estimates of a link, from acknowledgements in made-up time."""

from __future__ import annotations

import pytest

from edge_client.link import Link

CHUNK = 1000


def transfer(link: Link, rate: float, delay_s: float, chunks: int, begin: float = 0.0) -> float:
    """Send *chunks* as the window allows over a link of *rate* bytes per second; return when all were acknowledged."""
    now, free_at, sent = begin, begin, 0
    acknowledgements: list[tuple[float, int]] = []
    while sent < chunks * CHUNK or acknowledgements:
        while sent < chunks * CHUNK and link.room(now, least=2 * CHUNK) > 0:
            sent += CHUNK
            link.sent(now, int(begin), sent, CHUNK)
            free_at = max(free_at, now) + CHUNK / rate
            acknowledgements.append((free_at + 2 * delay_s, sent))
        now, held = acknowledgements.pop(0)
        link.acknowledged(now, int(begin), held)
    return now


@pytest.mark.parametrize("guess", [1000.0, 32_000.0, 1e6])
@pytest.mark.parametrize("rate", [8000.0, 64_000.0, 500_000.0])
@pytest.mark.parametrize("delay_s", [0.005, 0.1])
def test_rate_is_found_from_any_guess(guess: float, rate: float, delay_s: float) -> None:
    """After some seconds of sending, the rate is known to a tenth, whatever it was taken for."""
    link = Link(guess)
    now = transfer(link, rate, delay_s, int(6 * rate / CHUNK))
    assert link.rate(now) == pytest.approx(rate, rel=0.1)
    assert link.round_trip_s == pytest.approx(2 * delay_s, abs=CHUNK / rate + 0.002)


def test_what_is_out_is_a_round_trip_and_a_queue() -> None:
    """On a link that is known, chunks wait no longer than queue_s asks for, and the link never runs dry."""
    link = Link(64_000.0, round_trip_s=0.1, queue_s=0.05)
    now = transfer(link, 64_000.0, 0.05, 300)
    link.sent(now, 1, 1, 6400)  # a round trip's worth: nothing of it waits
    assert link.in_flight + link.room(now) <= 64_000 * (1.5 * 0.11 + 0.05)
    assert link.in_flight + link.room(now) >= 64_000 * 0.1


def test_bytes_arrive_behind_those_that_are_out() -> None:
    """10 kB/s and 0.1 s there and back: within 0.5 s 4,500 bytes arrive, and fewer with 2,000 out."""
    link = Link(10_000.0, round_trip_s=0.1)
    assert link.in_time(0.0, 0.5) == 4500
    link.sent(0.0, 1, 2000, 2000)
    assert link.in_time(0.0, 0.5) == 4500 - 1000  # a round trip's worth of the 2,000 is on the wire
    assert link.in_time(0.0, 0.04) == 0


def test_silence_lowers_the_rate_at_once() -> None:
    """A chunk that should have been acknowledged long ago says that the link carries less than it did."""
    link = Link()
    now = transfer(link, 64_000.0, 0.01, 200)
    link.sent(now, 1, CHUNK, CHUNK)
    assert link.rate(now + 0.02) == pytest.approx(64_000, rel=0.1)
    assert link.rate(now + 1.0) < 2 * CHUNK
    assert link.rate(now + 2.0) < CHUNK


def test_pauses_of_the_sender_do_not_lower_the_rate() -> None:
    """One chunk per second says little of what a link could carry."""
    link = Link()
    now = transfer(link, 64_000.0, 0.01, 200)
    for number in range(20):
        link.pausing()
        link.sent(now, 2, (number + 1) * CHUNK, CHUNK)
        now += CHUNK / 64_000 + 0.02
        link.acknowledged(now, 2, (number + 1) * CHUNK)
        now += 1.0
    assert link.rate(now) == pytest.approx(64_000, rel=0.1)


def test_slower_link_is_noticed_within_its_own_window() -> None:
    """From 64 to 8 kB/s: after what was out has arrived, the new rate holds."""
    link = Link()
    now = transfer(link, 64_000.0, 0.01, 300)
    now = transfer(link, 8000.0, 0.01, 30, begin=now)
    assert link.rate(now) == pytest.approx(8000, rel=0.15)


def test_longer_way_is_believed_of_chunks_that_met_no_other() -> None:
    """Behind others a chunk waits, which says nothing of the way; alone it does."""
    link = Link(1e6)
    link.round_trip(0.0, 0.02, alone=True)
    link.round_trip(0.0, 0.5)
    assert link.round_trip_s == pytest.approx(0.02)
    for number in range(8):
        link.sent(float(number), number, 100, 100)
        link.acknowledged(number + 0.2, number, 100)
    assert link.round_trip_s == pytest.approx(0.2, rel=0.01)


def test_link_runs_dry_now_and_then() -> None:
    """While chunks follow chunks no way can be measured: after ten seconds nothing leaves until all has arrived."""
    link = Link(64_000.0)
    link.round_trip(0.0, 0.02, alone=True)
    link.sent(9.0, 1, 100, 100)
    assert link.room(9.0) > 0
    assert link.room(10.5) == 0
    link.acknowledged(10.6, 1, 100)
    assert link.room(10.6) > 0


def test_one_acknowledgement_may_answer_several_chunks() -> None:
    """Also those of other frames that left before: the connection keeps the order."""
    link = Link()
    for sequence, end in [(1, 500), (2, 500), (1, 1000), (2, 1000)]:
        link.sent(0.0, sequence, end, 500)
    link.acknowledged(0.1, 1, 1000)
    assert link.in_flight == 500
    link.acknowledged(0.1, 7, 10)  # of a frame that was never sent
    link.acknowledged(0.1, 1, 1000)  # again
    assert link.in_flight == 500


def test_lost_connection_leaves_nothing_out() -> None:
    """The next connection begins with the rate as a guess."""
    link = Link()
    now = transfer(link, 64_000.0, 0.01, 200)
    link.sent(now, 1, CHUNK, CHUNK)
    link.lost()
    assert link.in_flight == 0
    assert link.rate(now + 60) == pytest.approx(64_000, rel=0.1)
