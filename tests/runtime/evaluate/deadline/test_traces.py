from __future__ import annotations

import numpy as np
import pytest

from runtime.evaluate.deadline.traces import PACKET_BYTES, TRACES, Trace

SIZE, DEADLINE_S = 30_000, 0.1


def draws(name: str, size: int = SIZE) -> list[Trace]:
    return [TRACES[name](size, DEADLINE_S, np.random.default_rng(seed)) for seed in range(200)]


def test_what_has_arrived() -> None:
    trace = Trace((0.1, 0.2, 0.2, 0.5), (10, 20, 30, 40))
    assert [trace.at(instant) for instant in (0.0, 0.1, 0.19, 0.2, 0.6)] == [0, 10, 10, 30, 40]
    assert [trace.after(received) for received in (0, 10, 29, 30, 39, 40)] == [0.1, 0.2, 0.2, 0.5, 0.5, None]


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("size", [1, PACKET_BYTES, PACKET_BYTES + 1, SIZE])
def test_traces_are_in_order_and_repeat_by_seed(name: str, size: int) -> None:
    """Instants and bytes rise, nothing arrives that is not there, and a seed gives the same trace."""
    for one, again in zip(draws(name, size), draws(name, size), strict=True):
        assert one == again
        assert list(one.instants) == sorted(one.instants) and one.instants[0] >= 0
        assert list(one.received) == sorted(set(one.received)) and 0 < one.received[-1] <= size
        assert len(one.instants) == len(one.received)


@pytest.mark.parametrize("name", ["constant", "bursty", "stalled"])
def test_whole_streams_arrive_some_in_time_some_not(name: str) -> None:
    ends = [trace.instants[-1] for trace in draws(name)]
    assert all(trace.received[-1] == SIZE for trace in draws(name))
    assert min(ends) < DEADLINE_S < max(ends)


def test_a_constant_link_is_steady() -> None:
    for trace in draws("constant"):
        assert np.ptp(np.diff(trace.instants)) == pytest.approx(0, abs=1e-9)


def test_a_stalled_link_has_one_long_pause() -> None:
    for trace in draws("stalled"):
        gaps = np.sort(np.diff(trace.instants))
        assert gaps[-1] >= 0.3 * DEADLINE_S and gaps[-2] < 0.1 * DEADLINE_S


def test_bursts_are_few() -> None:
    assert all(1 <= len(trace.instants) <= 8 for trace in draws("bursty"))


def test_a_link_that_is_cut_off_never_brings_the_end() -> None:
    assert all(trace.received[-1] < SIZE for trace in draws("cut off"))
