"""Which chunk is next: by worth, in time, within what the link carries."""

from __future__ import annotations

from edge_frames import frame
from hypothesis import given
from hypothesis import strategies as st

from edge_client.link import Link
from edge_client.schedule import Flight, Pace, next_piece, too_late

PACE = Pace(chunk_bytes=1000, answer_s=0.05, queue_s=0.1)


def flight(sequence: int, due: float | None = 10.0, sent: int = 0, limit: int = 20_000, **curve: float) -> Flight:
    return Flight(frame(sequence, due, **curve), limit, sent=sent)  # type: ignore[arg-type]


def known_link(rate: float = 100_000.0) -> Link:
    return Link(rate, round_trip_s=0.02)


FLIGHTS = st.lists(
    st.builds(
        flight,
        st.integers(0, 1000),
        due=st.one_of(st.none(), st.floats(-1, 3)),
        sent=st.integers(0, 20_000),
        limit=st.integers(1, 20_000),
        gain=st.floats(0.1, 10),
    ),
    max_size=6,
    unique_by=lambda one: one.frame.sequence,
)


@given(FLIGHTS, st.floats(500, 1e6), st.integers(0, 5000), st.floats(0, 2))
def test_piece_is_worth_most_of_all_that_fit(flights: list[Flight], rate: float, out: int, now: float) -> None:
    """Nothing else that may be sent is worth more; nothing goes beyond its limit, or when it would be late."""
    link = known_link(rate)
    if out:
        link.sent(now, 5000, out, out)
    piece = next_piece(flights, PACE, link, now)
    alone = [one for one in flights if next_piece([one], PACE, link, now)]
    if piece is None:
        assert not alone
        return
    rank = [(one.live, one.frame.worth.at(one.sent), one.frame.sequence) for one in alone]
    chosen = piece.flight
    assert (chosen.live, chosen.frame.worth.at(chosen.sent), chosen.frame.sequence) == max(rank)
    assert 0 < piece.size <= min(PACE.chunk_bytes, chosen.limit - chosen.sent)
    if chosen.frame.due is not None:
        assert now + link.round_trip_s / 2 < chosen.frame.due - PACE.answer_s
        if out:
            needed = min(piece.size, max(1, chosen.frame.worth.first - chosen.sent))
            assert link.in_time(now, chosen.frame.due - PACE.answer_s) >= needed


def test_newest_of_equals_is_sent() -> None:
    """Two frames alike: the later picture is the better news."""
    piece = next_piece([flight(1), flight(2)], PACE, known_link(), 0.0)
    assert piece is not None and piece.flight.frame.sequence == 2


def test_first_picture_of_a_new_frame_beats_the_refinement_of_an_old_one() -> None:
    """An old frame with a picture waits for one without."""
    piece = next_piece([flight(2, sent=3000), flight(1)], PACE, known_link(), 0.0)
    assert piece is not None and piece.flight.frame.sequence == 1


def test_detailed_frame_gets_more() -> None:
    """What gains more per byte goes first, whichever is newer."""
    piece = next_piece([flight(1, sent=3000, gain=5.0), flight(2, sent=3000)], PACE, known_link(), 0.0)
    assert piece is not None and piece.flight.frame.sequence == 1


def test_frame_whose_picture_cannot_arrive_is_not_begun() -> None:
    """900 bytes at 1,000 bytes per second take longer than the deadline leaves: they would be of no use."""
    link = known_link(1000.0)
    link.sent(0.0, 99, 100, 100)
    assert next_piece([flight(1, due=0.5)], PACE, link, 0.0) is None
    assert next_piece([flight(1, due=2.0)], PACE, link, 0.0) is not None


def test_empty_link_is_tried_whatever_the_estimates_say() -> None:
    """A rate that is believed too low would otherwise never be mended."""
    assert next_piece([flight(1, due=0.5)], PACE, known_link(10.0), 0.0) is not None


def test_nothing_leaves_after_its_time() -> None:
    """Half a round trip and the server's time for an answer before the deadline, it is too late."""
    link = known_link()
    assert too_late(flight(1, due=1.0), PACE, link, 0.95)
    assert not too_late(flight(1, due=1.0), PACE, link, 0.93)
    assert not too_late(flight(1, due=None), PACE, link, 1e9)
    assert next_piece([flight(1, due=1.0)], PACE, link, 0.95) is None


def test_frames_of_the_spool_fill_what_is_left() -> None:
    """They come after every frame with a deadline, and leave half of the window free."""
    link, spooled = known_link(), flight(1, due=None, gain=10.0)
    piece = next_piece([spooled, flight(2, sent=10_000)], PACE, link, 0.0)
    assert piece is not None and piece.flight.frame.sequence == 2
    sent = 0
    while next_piece([spooled], PACE, link, 0.0) is not None:
        sent += 1000
        link.sent(0.0, 1, sent, 1000)
    assert link.room(0.0) >= sent - 1000


def test_slow_links_get_small_chunks() -> None:
    """So that another may overtake within a part of a second."""
    assert PACE.piece_bytes(1e6) == 1000
    assert PACE.piece_bytes(16_000) == 800
    assert PACE.piece_bytes(100) == 512
