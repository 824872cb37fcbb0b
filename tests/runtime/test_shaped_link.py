"""The shaped link: instants by calculation, without a clock; then real sockets, on which only order and bytes count."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import UsageError
from runtime.shaped_link import Conditions, Pipe, ShapedLink, Stretch, Trace, steady, varying

FAST = steady(1e9)
WAIT_S = 30  # a safety net, no measure

traces = st.lists(st.tuples(st.floats(0.01, 5), st.sampled_from([0.0, 1e3, 64e3, 1e6])), min_size=1, max_size=6).filter(
    lambda pairs: any(rate for _, rate in pairs)
)


# By calculation.


def test_bits_take_their_time() -> None:
    """At 64 kbit/s, 64,000 bits take a second."""
    assert steady(64_000).carried_by(0.25, 64_000) == pytest.approx(1.25)


def test_nothing_moves_in_a_stall() -> None:
    """What is not through when a stall begins goes on after it; a trace begins again after its end."""
    trace = Trace(Stretch(1, 1000), Stretch(2, 0))
    assert trace.carried_by(0, 1000) == pytest.approx(1)
    assert trace.carried_by(0, 1500) == pytest.approx(3.5)
    assert trace.carried_by(1.5, 10) == pytest.approx(3.01)
    assert trace.carried_by(0, 1e9) == pytest.approx(3e6, rel=1e-6)


@given(traces, st.floats(0, 50), st.floats(0, 1e5), st.floats(0, 1e5))
def test_two_halves_take_as_long_as_the_whole(
    pairs: list[tuple[float, float]], start: float, first: float, second: float
) -> None:
    """Transmission is additive and takes no less time than the best rate needs."""
    trace = Trace(*(Stretch(*pair) for pair in pairs))
    whole = trace.carried_by(start, first + second)
    assert trace.carried_by(trace.carried_by(start, first), second) == pytest.approx(whole, rel=1e-6, abs=1e-6)
    assert whole - start >= (first + second) / max(rate for _, rate in pairs) - 1e-6


@pytest.mark.parametrize(
    "stretches",
    [(), (Stretch(1, 0),), (Stretch(1, 1e6, cut=True),), (Stretch(0, 1), Stretch(1, 1)), (Stretch(1, float("inf")),)],
)
def test_a_trace_that_carries_nothing_is_refused(stretches: tuple[Stretch, ...]) -> None:
    """As is one with numbers that mean nothing."""
    with pytest.raises(UsageError):
        Trace(*stretches)


def test_cuts_are_known_by_their_beginnings_and_ends() -> None:
    """They come again each time the trace does."""
    trace = Trace(Stretch(2, 1000), Stretch(1, 0, cut=True), Stretch(1, 1000))
    assert list(itertools.islice(trace.cuts_after(0), 2)) == [(2, 3), (6, 7)]
    assert next(trace.cuts_after(2.5)) == (2, 3)
    assert next(trace.cuts_after(3)) == (6, 7)
    assert list(steady(1).cuts_after(0)) == []


def test_a_varying_trace_keeps_to_its_bounds_and_seed() -> None:
    """Rates between 64 and 512 kbit/s, with stalls; the same seed gives the same trace, another one another."""
    trace = varying(7, seconds=300)
    rates = [one.bits_per_s for one in trace.stretches]
    moving = [rate for rate in rates if rate]
    assert 64_000 <= min(moving) < 120_000 and 280_000 < max(moving) <= 512_000
    assert 5 <= rates.count(0) <= 30
    assert varying(7, seconds=300).stretches == trace.stretches != varying(8, seconds=300).stretches


def test_a_pipe_adds_transmission_and_delay() -> None:
    """960 bytes and 40 of headers at 80 kbit/s take 0.1 s; the next ones wait for them; a pause empties the queue."""
    pipe = Pipe(steady(80_000), Conditions(delay_s=0.5), "up")
    assert pipe.send(960, 0.0) == pytest.approx(0.6)
    assert pipe.send(960, 0.0) == pytest.approx(0.7)
    assert pipe.send(960, 10.0) == pytest.approx(10.6)
    assert pipe.sent == 3 * 960


def test_a_full_queue_makes_the_sender_wait() -> None:
    """There is room again when the first bytes have left."""
    pipe = Pipe(steady(80_000), Conditions(queue_bytes=2000), "up")
    pipe.send(960, 0.0)
    pipe.send(960, 0.0)
    assert pipe.admits_at(80, 0.0) == 0.0
    assert pipe.admits_at(960, 0.0) == pytest.approx(0.1)
    assert pipe.admits_at(1960, 0.0) == pytest.approx(0.2)
    assert pipe.admits_at(960, 0.15) == 0.15
    pipe.clear()
    assert pipe.admits_at(2000, 0.0) == 0.0


def test_more_than_the_queue_holds_goes_alone() -> None:
    """A segment larger than the queue waits until that is empty, and not for ever."""
    pipe = Pipe(steady(80_000), Conditions(queue_bytes=100), "up")
    assert pipe.admits_at(960, 0.0) == 0.0
    pipe.send(960, 0.0)
    assert pipe.admits_at(960, 0.0) == pytest.approx(0.1)


def test_losses_delay() -> None:
    """About one in twenty arrives later by a retransmission at least; the same seed loses the same."""
    conditions = Conditions(delay_s=0.2, loss=0.05, seed=3)

    def arrivals(conditions: Conditions, direction: str = "up") -> list[float]:
        pipe = Pipe(FAST, conditions, direction)
        return [pipe.send(1000, float(number)) - number for number in range(2000)]

    late = [seconds for seconds in arrivals(conditions) if seconds > 0.201]
    assert 60 <= len(late) <= 140
    assert min(late) >= 0.6
    assert arrivals(conditions) == arrivals(conditions) != arrivals(conditions, "down")


@pytest.mark.parametrize("values", [{"loss": 1.0}, {"delay_s": -1.0}, {"queue_bytes": 0}])
def test_conditions_that_no_link_has_are_refused(values: dict[str, float]) -> None:
    """Nothing would arrive, or before it was sent."""
    with pytest.raises(UsageError):
        Conditions(**values)  # type: ignore[arg-type]


# On sockets.


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[str, int]]:
    """A server that answers what it reads, and its end with its own."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
        await asyncio.sleep(0)


def through(
    work: Callable[[ShapedLink, int], Awaitable[None]],
    trace: Trace = FAST,
    conditions: Conditions = Conditions(),
) -> None:
    """Run *work* with a link to an echo."""

    async def run() -> None:
        async with echo() as target:
            link = ShapedLink(target, trace, conditions)
            async with link as port:
                await asyncio.wait_for(work(link, port), WAIT_S)

    asyncio.run(run())


def test_bytes_come_through_whole_and_in_order() -> None:
    """Whatever is lost on the way, and also behind the end of one direction."""
    sent = bytes(range(256)) * 400

    async def work(link: ShapedLink, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        writer.write_eof()
        assert await reader.read() == sent
        writer.close()
        await writer.wait_closed()
        assert link.up.sent == link.down.sent == len(sent)

    through(work, conditions=Conditions(delay_s=0.001, loss=0.01, queue_bytes=5000))


def test_it_takes_at_least_the_time_that_the_rate_allows() -> None:
    """Never faster: a slow machine makes it slower only."""
    size = 20_000

    async def work(link: ShapedLink, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = asyncio.get_running_loop().time()
        writer.write(bytes(size))
        await reader.readexactly(size)
        assert asyncio.get_running_loop().time() - began >= 8 * size / 1e6 + 0.1
        writer.close()
        await writer.wait_closed()

    through(work, steady(1e6), Conditions(delay_s=0.05))


def test_a_cut_resets_and_refuses_until_restored() -> None:
    """Afterwards new connections work."""

    async def work(link: ShapedLink, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        link.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()
        late_reader, late_writer = await asyncio.open_connection("127.0.0.1", port)
        assert await late_reader.read() == b""
        late_writer.close()
        link.restore()
        await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"two")
        assert await reader.readexactly(3) == b"two"
        writer.close()
        await writer.wait_closed()

    through(work)


def test_a_cut_in_the_trace_resets() -> None:
    """As one by hand does."""

    async def work(link: ShapedLink, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()

    through(work, Trace(Stretch(0.05, 1e6), Stretch(60, 0, cut=True)))


def test_silence_loses_nothing() -> None:
    """What is sent meanwhile arrives when it ends."""

    async def work(link: ShapedLink, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        link.silence()
        await asyncio.sleep(0)
        writer.write(b"held")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(held := asyncio.ensure_future(reader.readexactly(4))), 0.1)
        link.restore()
        assert await held == b"held"
        writer.close()
        await writer.wait_closed()

    through(work)


def test_a_trace_can_begin_again() -> None:
    """A stall that would last longer than anybody waits is over."""

    async def work(link: ShapedLink, port: int) -> None:
        link._began -= 30.0  # the middle of the stall
        link.rewind()
        await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        writer.close()
        await writer.wait_closed()

    through(work, Trace(Stretch(1.0, 1e7), Stretch(60, 0)))


def test_what_waits_in_a_stall_still_does_when_the_trace_begins_again() -> None:
    """It arrives, and not before the stall that it met would have ended."""

    async def work(link: ShapedLink, port: int) -> None:
        link._began -= 60.5  # half a second is left of the stall
        stall_ends = link._began + 61
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one")
        while link.up.sent < 3:
            await asyncio.sleep(0.001)
        link.rewind()
        assert await reader.readexactly(3) == b"one"
        assert asyncio.get_running_loop().time() >= stall_ends
        writer.close()
        await writer.wait_closed()

    through(work, Trace(Stretch(1.0, 1e7), Stretch(60, 0)))


def test_leaving_ends_what_is_open(caplog: pytest.LogCaptureFixture) -> None:
    """Without a word: connections that still carry something are reset."""

    async def run() -> None:
        async with echo() as target:
            async with ShapedLink(target, FAST) as port:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"one")
                assert await reader.readexactly(3) == b"one"
            with suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
            writer.close()

    asyncio.run(run())
    assert not caplog.records


def test_without_a_target_connections_end() -> None:
    """The link itself stays."""

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            target = unused.getsockname()[:2]
        async with ShapedLink(target, FAST) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
            writer.close()

    asyncio.run(run())


@contextmanager
def echo_once() -> Iterator[tuple[str, int]]:
    """A plain server that answers one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(4096):
                    connection.sendall(data)

        thread = Thread(target=answer)
        thread.start()
        yield listener.getsockname()
        thread.join()


def test_it_runs_in_a_thread_for_programs_without_a_loop() -> None:
    """And ends with the block."""
    with (
        echo_once() as target,
        ShapedLink(target, FAST).in_thread() as port,
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection,
    ):
        connection.sendall(b"picture")
        assert connection.recv(7, socket.MSG_WAITALL) == b"picture"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
