"""A poor link on one machine: a TCP relay with a rate that varies, delay, a queue, loss and outages.

    client -> relay -> [queue -> rate -> delay, loss] -> server, and the same back

For tests, benchmarks and demonstrations; it needs no rights and no kernel module. What happens to a byte is computed
when it comes in, from the trace and the seed alone: `Pipe` is that computation, without sockets or a clock, and
`ShapedLink` keeps to it.

TCP never loses bytes, so a lost segment shows as TCP's user sees it: it arrives after a retransmission, and so does all
that follows it. That a sender slows down after a loss is left out; rates of the trace are what gets through.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import math
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from runtime.errors import UsageError

_SEGMENT = 1460  # bytes of payload that travel, and get lost, together
_OVERHEAD = 40  # bytes of headers that each segment takes of the rate besides
_IN_FLIGHT = 1024  # segments of a connection and a direction on their way; beyond, the sender waits
_KERNEL_BUFFER = 16_384  # bytes that wait in the relay's socket in front of the queue
_RTO_S = 0.2  # the shortest wait before TCP sends a lost segment again, as Linux has it


@dataclass(frozen=True)
class Stretch:
    """A part of a trace.

    Attributes:
        seconds: how long it lasts.
        bits_per_s: what the link carries in each direction; 0 is a silent stall: nothing gets lost, nothing moves.
        cut: connections are reset when it begins, and refused until it ends; whatever was on its way is lost.
    """

    seconds: float
    bits_per_s: float
    cut: bool = False


class Trace:
    """Rates over time; after its last stretch it begins again."""

    def __init__(self, *stretches: Stretch) -> None:
        """Join *stretches*.

        Raises:
            UsageError: none carries anything, or a number is negative or not finite.
        """
        self.stretches = stretches
        for one in stretches:
            if not (0 < one.seconds < math.inf and 0 <= one.bits_per_s < math.inf):
                raise UsageError(f"a stretch of {one.seconds} s at {one.bits_per_s} bit/s; numbers must be positive")
        if not any(self._rate(one) for one in stretches):
            raise UsageError("a trace whose rate is 0 everywhere carries nothing")
        self._ends = list(itertools.accumulate(one.seconds for one in stretches))
        self._period = self._ends[-1]
        self._bits_per_period = sum(one.seconds * self._rate(one) for one in stretches)

    def carried_by(self, start_s: float, bits: float) -> float:
        """Return when *bits* are through if their transmission begins at *start_s*, in seconds of the trace."""
        periods, at = divmod(start_s, self._period)
        whole = max(0, math.ceil(bits / self._bits_per_period) - 1)  # the last bit of a period leaves before its end
        bits -= whole * self._bits_per_period
        base = (periods + whole) * self._period
        index = min(bisect.bisect_right(self._ends, at), len(self._ends) - 1)
        while True:
            rate, end = self._rate(self.stretches[index]), self._ends[index]
            if rate and bits <= rate * (end - at):
                return base + at + bits / rate
            bits -= rate * (end - at)
            at, index = end, index + 1
            if index == len(self._ends):
                base, at, index = base + self._period, 0.0, 0

    def cuts_after(self, start_s: float) -> Iterator[tuple[float, float]]:
        """Yield beginnings and ends of cuts that end after *start_s*, for ever; nothing if there are none."""
        if not any(one.cut for one in self.stretches):
            return
        for period in itertools.count(int(start_s // self._period)):
            for one, end in zip(self.stretches, self._ends, strict=True):
                ends = period * self._period + end
                if one.cut and ends > start_s:
                    yield ends - one.seconds, ends

    def _rate(self, stretch: Stretch) -> float:
        return 0.0 if stretch.cut else stretch.bits_per_s


def steady(bits_per_s: float) -> Trace:
    """Return a trace of one rate."""
    return Trace(Stretch(1.0, bits_per_s))


def varying(
    seed: int,
    seconds: float = 120.0,
    low: float = 64_000,
    high: float = 512_000,
    stalls_per_minute: float = 3.0,
    stall_s: tuple[float, float] = (0.3, 3.0),
) -> Trace:
    """Return a trace like that of a mobile link: each second another rate, near the last one, and now and then a stall.

    The rate's logarithm walks at random between *low* and *high* bits per second. Stalls begin at random and last
    between the two ends of *stall_s*, short ones more often.
    """
    generator = random.Random(seed)
    bottom, top = math.log(low), math.log(high)
    level, spent = generator.uniform(bottom, top), 0.0
    stretches: list[Stretch] = []
    while spent < seconds:
        stretches.append(Stretch(1.0, min(max(math.exp(level), low), high)))  # rounding aside
        if generator.random() < stalls_per_minute / 60:
            shortest, longest = stall_s
            stretches.append(Stretch(shortest * (longest / shortest) ** generator.random(), 0.0))
            spent += stretches[-1].seconds
        level += generator.gauss(0.0, (top - bottom) / 5)
        # Reflected at both ends, so that the rates there are as likely as those between.
        level = min(max(2 * bottom - level if level < bottom else level, bottom), top)
        level = max(2 * top - level, bottom) if level > top else level
        spent += 1.0
    return Trace(*stretches)


@dataclass(frozen=True)
class Conditions:
    """What a link is like besides its rate.

    Attributes:
        delay_s: from one end to the other, one way.
        queue_bytes: room in front of the bottleneck, in each direction; when it is full the sender has to wait.
        loss: share of segments that get lost.
        seed: of the losses.
    """

    delay_s: float = 0.0
    queue_bytes: int = 32_768
    loss: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.delay_s < math.inf and self.queue_bytes > 0 and 0 <= self.loss < 1):
            raise UsageError(f"no link has {self}")


class Pipe:
    """One direction of a link: says when what is sent will arrive. Instants are seconds of the trace."""

    def __init__(self, trace: Trace, conditions: Conditions, direction: str) -> None:
        """Begin with an empty queue; losses differ by *direction*."""
        self._trace, self._conditions = trace, conditions
        self._random = random.Random(f"{conditions.seed} {direction}")
        self._queue: deque[tuple[float, int]] = deque()  # when it has left, how much
        self._backlog = 0
        self._free_at = 0.0
        self._recovery_s = max(_RTO_S, 2 * conditions.delay_s)
        self.sent = 0
        """Bytes of payload taken so far, each counted once."""

    def admits_at(self, size: int, now: float) -> float:
        """Return when the queue has room for *size* bytes: *now*, or a later instant."""
        while self._queue and self._queue[0][0] <= now:
            self._backlog -= self._queue.popleft()[1]
        backlog, at = self._backlog, now
        for left_at, taken in self._queue:
            if backlog + size <= self._conditions.queue_bytes:
                break
            backlog, at = backlog - taken, left_at
        return at

    def send(self, size: int, now: float) -> float:
        """Put *size* bytes into the queue at *now* and return when they arrive; later ones must not overtake them."""
        bits = 8 * (size + _OVERHEAD)
        left_at = self._trace.carried_by(max(now, self._free_at), bits)
        arrives_at, wait_s = left_at + self._conditions.delay_s, self._recovery_s
        self._free_at = left_at
        while self._random.random() < self._conditions.loss:
            self._free_at = self._trace.carried_by(self._free_at, bits)  # it takes its share of the rate again
            again_at = self._trace.carried_by(arrives_at + wait_s - self._conditions.delay_s, bits)
            arrives_at, wait_s = again_at + self._conditions.delay_s, 2 * wait_s
        self._queue.append((left_at, size))
        self._backlog += size
        self.sent += size
        return arrives_at

    def clear(self) -> None:
        """Empty the queue: what is in it takes none of the rate any more."""
        self._queue.clear()
        self._backlog, self._free_at = 0, 0.0


class ShapedLink:
    """A relay on a port of this machine to *target*, as slow as its trace and conditions say.

    async with ShapedLink(("127.0.0.1", 8000), steady(64_000)) as port: ...
    with ShapedLink(("127.0.0.1", 8000), steady(64_000)).in_thread() as port: ...

    All connections share the two pipes. The trace begins when the link is entered. `cut`, `silence`, `restore`
    and `rewind` may be called from any thread.
    """

    def __init__(
        self, target: tuple[str, int], trace: Trace, conditions: Conditions = Conditions(), host: str = "127.0.0.1"
    ) -> None:
        """Prepare a relay to host and port *target* that will listen on a free port of *host*."""
        self._target, self._trace, self._conditions, self._host = target, trace, conditions, host
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.WriteTransport] = set()
        self._refuses = False
        self.up, self.down = (Pipe(trace, conditions, direction) for direction in ("up", "down"))

    async def __aenter__(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._moves = asyncio.Event()
        self._moves.set()
        listener = socket.create_server((self._host, 0), backlog=1024)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BUFFER)
        self._server = await asyncio.start_server(self._connected, sock=listener, limit=_SEGMENT)
        self._began = self._loop.time()
        self._cuts = self._follow(self._keep_cuts())
        port: int = listener.getsockname()[1]
        return port

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._abort_all()
        await asyncio.sleep(0)  # transports close in the loop's next turn
        await self._server.wait_closed()

    @contextlib.contextmanager
    def in_thread(self) -> Iterator[int]:
        """Run the link on an event loop of its own, in a thread, for programs that have none."""
        started = threading.Event()
        outcome: list[int | BaseException] = []
        stop: list[asyncio.Event] = []

        async def serve() -> None:
            stop.append(asyncio.Event())
            async with self as port:
                outcome.append(port)
                started.set()
                await stop[0].wait()

        def work() -> None:
            try:
                asyncio.run(serve())
            except BaseException as fault:
                outcome.append(fault)
                started.set()

        thread = threading.Thread(target=work, name="shaped link", daemon=True)
        thread.start()
        started.wait()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        try:
            yield outcome[0]
        finally:
            self._loop.call_soon_threadsafe(stop[0].set)
            thread.join()

    def cut(self) -> None:
        """Reset all connections and refuse new ones, until `restore`."""
        self._loop.call_soon_threadsafe(self._cut)

    def silence(self) -> None:
        """Deliver nothing, until `restore`; connections stay, and nothing is lost."""
        self._loop.call_soon_threadsafe(self._moves.clear)

    def restore(self) -> None:
        """End `cut` and `silence`."""

        def both() -> None:
            self._refuses = False
            self._moves.set()

        self._loop.call_soon_threadsafe(both)

    def rewind(self) -> None:
        """Let the trace begin now, with empty queues; what is on its way still arrives when it was to."""
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._began = self._loop.time()
        for pipe in (self.up, self.down):
            pipe.clear()
        self._cuts.cancel()
        self._cuts = self._follow(self._keep_cuts())

    def _follow(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _now(self) -> float:
        return self._loop.time() - self._began

    async def _until(self, instant: float) -> None:
        """Wait until *instant*, on the loop's clock."""
        left_s = instant - self._loop.time()
        if left_s > 0:
            await asyncio.sleep(left_s)

    def _cut(self) -> None:
        self._refuses = True
        self._abort_all()

    def _abort_all(self) -> None:
        for pipe in (self.up, self.down):
            pipe.clear()
        for transport in [one for one in self._transports if not one.is_closing()]:
            # Without lingering, the other end sees a reset and no orderly end.
            end: socket.socket = transport.get_extra_info("socket")
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    async def _keep_cuts(self) -> None:
        for begins, ends in self._trace.cuts_after(self._now()):
            await self._until(self._began + begins)
            self._cut()
            await self._until(self._began + ends)
            self._refuses = False

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._follow(self._relay(reader, writer))

    async def _relay(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        ends = [near]
        try:
            if self._refuses:
                raise ConnectionRefusedError
            self._transports.add(near.transport)
            far_reader, far = await asyncio.open_connection(*self._target, limit=_SEGMENT)
            self._transports.add(far.transport)
            ends.append(far)
            await _all_or_none(self._carry(near_reader, far, self.up), self._carry(far_reader, near, self.down))
            for end in ends:
                end.close()
                await end.wait_closed()
        except OSError:
            pass  # one end is gone; so is the other, below
        finally:
            for end in ends:
                self._transports.discard(end.transport)
                end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pipe: Pipe) -> None:
        travelling: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT)
        await _all_or_none(self._take(reader, travelling, pipe), self._deliver(travelling, writer))

    async def _take(
        self, reader: asyncio.StreamReader, travelling: asyncio.Queue[tuple[float, bytes]], pipe: Pipe
    ) -> None:
        data = b" "
        while data:  # an end travels like a segment
            data = await reader.read(_SEGMENT)
            while (admitted := pipe.admits_at(len(data), self._now())) > self._now():
                await self._until(self._began + admitted)
            await travelling.put((self._began + pipe.send(len(data), self._now()), data))

    async def _deliver(self, travelling: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            arrives_at, data = await travelling.get()
            await self._until(arrives_at)
            await self._moves.wait()
            if not data:
                if not writer.transport.is_closing():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()


async def _all_or_none(*work: Coroutine[Any, Any, None]) -> None:
    """Wait for all coroutines; when one fails, the others are cancelled and waited for."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
