"""Camera frames from opening to result: bytes held, the desk that decodes, the store that keeps.

    open -> Ack(held); chunk -> Ack(held), desk; end -> desk
    desk: finishing -> the store begins to write;  answered -> Result, as soon as bytes are on the disk or time is up

Everything here runs on the event loop. Workers' threads call in through `_Hearing`; the store and small pictures have
a thread each.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from runtime.errors import CutoffError, OutputError
from runtime.picture import Image
from runtime.protocol import Ack, Chunk, End, Enough, Fault, Frame, Message, Result
from runtime.serve.desk import Desk
from runtime.serve.disk import Disk
from runtime.serve.events import CameraChanged, Events, FrameAnswered, FrameProgress
from runtime.serve.labeller import Label, Outcome
from runtime.serve.metrics import Metrics
from runtime.serve.settings import LimitSettings
from runtime.serve.small_jpeg import small_jpeg
from runtime.serve.store import Store, StoredFrame
from runtime.serve.worker import Ticket

LOG = logging.getLogger("cutoff.serve")
_REJOIN_S = 30.0  # a frame without a deadline waits so long for its camera to come back
_CAMERAS_AT_LEAST = 4  # how many it takes to fill the memory set aside for open frames
_SEND_S = 0.002  # left between the last look at the disk and the deadline


class Refusal(CutoffError):
    """Something that a camera asked for and does not get; the connection goes on unless `closes`."""

    def __init__(self, code: str, message: str, retry_after_s: float | None = None, *, closes: bool = False) -> None:
        super().__init__(message)
        self.code, self.retry_after_s, self.closes = code, retry_after_s, closes

    def fault(self, sequence: int | None) -> Fault:
        """Return what the camera is told; a fault that closes the connection concerns no frame."""
        return Fault(self.code, str(self), None if self.closes else sequence, self.retry_after_s)


class NotOpen(CutoffError):
    """A frame that is not open here."""


class Client(Protocol):
    """The connection of a camera."""

    def send(self, message: Message) -> None:
        """Send *message* soon; never waits."""


@dataclass(eq=False)
class OpenFrame:
    """A camera frame in memory.

    Attributes:
        due: instant on the server's clock by which it is to be answered; None without a deadline.
        data: bytes held, from the first.
        kept: how many of them are on the disk.
        writing: how many will be, when what waits for the disk is done.
        ticket: at the desk; None before there is anything new to decode, and when it is answered.
        former: what was answered to an earlier opening.
        answered: this opening has its result; bytes are still taken.
        ended: nothing more comes of this opening.
    """

    camera: str
    sequence: int
    size: int
    captured: float
    received: float
    due: float | None
    client: Client | None
    data: bytearray = field(default_factory=bytearray)
    kept: int = 0
    writing: int = 0
    ticket: Ticket | None = None
    former: Result | None = None
    answered: bool = False
    ended: bool = False
    write: asyncio.Future[None] | None = None
    waiting: asyncio.TimerHandle | None = None

    @property
    def whole(self) -> bool:
        """Every byte is here."""
        return len(self.data) == self.size

    @property
    def settled(self) -> bool:
        """The former answer rests on every byte that is here: another one would be no better."""
        return self.former is not None and self.former.bytes >= len(self.data)


class Intake:
    """All open camera frames of a server."""

    def __init__(
        self,
        desk: Desk,
        store: Store,
        events: Events,
        metrics: Metrics,
        limits: LimitSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.desk, self.store, self.events, self.metrics = desk, store, events, metrics
        self._limits, self._clock = limits, clock
        self._frames: OrderedDict[tuple[str, int], OpenFrame] = OrderedDict()
        self._clients: dict[str, Client] = {}
        self._newest: dict[str, int] = {}  # largest sequence known of a camera; the store is not asked about later ones
        self._claimed = 0
        self._disk = Disk(limits.memory_bytes)
        self._to_jpeg = ThreadPoolExecutor(1, "cutoff-pictures")
        self._tasks: set[asyncio.Task[None]] = set()

    # Connections.

    def connected(self, camera: str, client: Client) -> Client | None:
        """Note that *camera* is served by *client* now; return the connection that it had before."""
        former = self._clients.get(camera)
        self._clients[camera] = client
        self.metrics.cameras.set(len(self._clients))
        self.events.publish(CameraChanged(camera, True, time.time()))
        return former

    def lost(self, camera: str, client: Client) -> None:
        """Note that a connection has ended; frames with a deadline are answered all the same, into the store."""
        if self._clients.get(camera) is client:
            del self._clients[camera]
            self.metrics.cameras.set(len(self._clients))
            self.events.publish(CameraChanged(camera, False, time.time()))
        for frame in [one for one in self._frames.values() if one.client is client]:
            frame.client = None
            if frame.answered or frame.ticket is None:
                self._drop(frame)
            elif frame.due is None:
                frame.waiting = asyncio.get_running_loop().call_later(_REJOIN_S, self._close, frame)

    @property
    def connected_cameras(self) -> set[str]:
        """Names of the cameras that are connected."""
        return set(self._clients)

    # What a camera sends.

    async def open(self, camera: str, message: Frame, client: Client) -> None:
        """Open a frame, or go on with it; answers with `Ack`, and the former result if there is nothing to be done.

        Raises:
            Refusal: too large, too many, or too much.
        """
        now = self._clock()
        due = None
        if message.deadline_s is not None:
            sent = now if message.at_s is None else min(message.at_s, now)
            due = sent + min(message.deadline_s, self._limits.deadline_s)
        if not 1 <= message.size <= self._limits.frame_bytes:
            raise Refusal("too_large", f"a stream of {message.size} bytes; allowed: 1 to {self._limits.frame_bytes}")
        key = camera, message.sequence
        frame, stored = self._frames.get(key), None
        if frame is None:
            stored = await self._stored(camera, message.sequence)
            frame = self._frames.get(key)  # a newer connection of the camera may have opened it meanwhile
        known = frame or (stored and stored[0])
        if known and known.size != message.size:
            raise Refusal("malformed", f"frame {message.sequence} had {known.size} bytes before", closes=True)
        if frame is None:
            if stored is not None and stored[0].trimmed:
                self._answer_from_store(stored[0], client)
                return
            frame = self._admit(camera, message, due, client, now)
            if stored is not None:
                frame.data, frame.former = bytearray(stored[1]), stored[0].result
                frame.kept = len(frame.data)
        elif frame.answered:
            self._check(camera, message.size, due, now)
        self._go_on(frame, due, client)

    def _go_on(self, frame: OpenFrame, due: float | None, client: Client) -> None:
        """Serve *client* with a frame, which is open already."""
        if frame.waiting is not None:
            frame.waiting.cancel()
            frame.waiting = None
        frame.client, frame.ended = client, False
        self._reopen(frame, due)
        client.send(Ack(frame.sequence, len(frame.data)))
        if frame.answered:
            self._repeat(frame)

    def take(self, camera: str, chunk: Chunk) -> None:
        """Take bytes of an open frame; answers with `Ack`.

        Raises:
            NotOpen: the frame is not open.
            Refusal: a gap, or bytes beyond the stream's end.
        """
        frame = self._opened(camera, chunk.sequence)
        held, end = len(frame.data), chunk.offset + len(chunk.data)
        if chunk.offset > held:
            raise Refusal("malformed", f"frame {frame.sequence}: a chunk at {chunk.offset}; held: {held}", closes=True)
        if end > frame.size:
            raise Refusal("too_large", f"frame {frame.sequence}: bytes up to {end}; its stream has {frame.size}")
        if end > held:
            news = chunk.data[held - chunk.offset :]
            frame.data += news
            self.metrics.bytes.inc(len(news))
            if not frame.answered:
                if frame.ticket is None:
                    self._to_desk(frame)
                else:
                    self.desk.feed(frame.ticket, news)
                if frame.whole:
                    self._close(frame)
        if frame.client is not None:
            frame.client.send(Ack(frame.sequence, len(frame.data)))
        if frame.answered and frame.whole:
            self._drop(frame)

    def end(self, camera: str, message: End) -> None:
        """Nothing more of a frame comes.

        Raises:
            NotOpen: the frame is not open.
        """
        frame = self._opened(camera, message.sequence)
        frame.ended = True
        if frame.answered:
            self._drop(frame)
        elif frame.ticket is None and frame.former is not None:  # nothing new came
            self._repeat(frame)
        else:
            self._close(frame)

    async def close(self) -> None:
        """Answer what is open, write what is to be written, end the threads."""
        await asyncio.to_thread(self.desk.stop)
        await asyncio.sleep(0)  # what the workers said last
        await self._settle()
        for frame in list(self._frames.values()):
            self._drop(frame)
        await self._settle()
        self._disk.close()
        self._to_jpeg.shutdown()

    # Inside.

    async def _settle(self) -> None:
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _opened(self, camera: str, sequence: int) -> OpenFrame:
        try:
            return self._frames[camera, sequence]
        except KeyError:
            raise NotOpen(f"frame {sequence} of {camera} is not open") from None

    async def _stored(self, camera: str, sequence: int) -> tuple[StoredFrame, bytes] | None:
        if camera not in self._newest:
            newest = await asyncio.to_thread(self.store.newest, camera)
            self._newest.setdefault(camera, -1 if newest is None else newest)
        if sequence > self._newest[camera]:
            return None
        frame = await self._disk.read(self.store.frame, camera, sequence)  # behind a write that is under way
        if frame is None:
            return None
        data = None if frame.trimmed else await asyncio.to_thread(self.store.stream, frame)
        return frame, data or b""

    def _answer_from_store(self, stored: StoredFrame, client: Client) -> None:
        """Answer for a frame that retention has made smaller: what came of it stays what it is."""
        nothing = Result(stored.sequence, "missed", 0, 0.0, 0, None, True)
        client.send(Ack(stored.sequence, stored.size))
        client.send(stored.result or nothing)

    def _check(self, camera: str, size: int, due: float | None, now: float) -> None:
        """Refusal if one more frame to be answered, of *size* bytes, is too much beside those that are."""
        mine = [frame.size for frame in self._frames.values() if frame.camera == camera and not frame.answered]
        if len(mine) >= self._limits.frames:
            raise Refusal("too_many", f"{len(mine)} frames of {camera} are open; allowed: {self._limits.frames}", 1.0)
        share = max(self._limits.frame_bytes, self._limits.memory_bytes // _CAMERAS_AT_LEAST)
        if sum(mine) + size > share:
            raise Refusal("too_many", f"open frames of {camera} claim {sum(mine)} bytes; allowed: {share}", 1.0)
        too_much = self.desk.overload_s(camera, due)
        if too_much > 0 and due is not None and due > now:  # one that is late already costs next to nothing
            raise Refusal("busy", "too many frames to answer all of them in time", max(0.1, too_much))

    def _admit(self, camera: str, message: Frame, due: float | None, client: Client, now: float) -> OpenFrame:
        self._check(camera, message.size, due, now)
        while self._claimed + message.size > self._limits.memory_bytes:
            idle = next((frame for frame in self._frames.values() if frame.answered), None)
            if idle is None:
                raise Refusal("busy", "the frames that are open fill the memory set aside for them", 1.0)
            self._drop(idle)
        frame = OpenFrame(camera, message.sequence, message.size, message.captured, time.time(), due, client)
        self._frames[camera, message.sequence] = frame
        self._claimed += frame.size
        self._newest[camera] = max(self._newest.get(camera, -1), frame.sequence)
        self._gauge()
        return frame

    def _reopen(self, frame: OpenFrame, due: float | None) -> None:
        """Make a frame that is new, or was answered, ready for another answer."""
        if frame.ticket is not None:
            return
        frame.answered, frame.due = frame.whole and frame.settled, due
        if not frame.answered and (due is not None or not frame.settled):
            self._to_desk(frame)
        self._gauge()

    def _to_desk(self, frame: OpenFrame) -> None:
        hearing = _Hearing(self, frame, asyncio.get_running_loop())
        frame.ticket = self.desk.open(frame.camera, frame.due, hearing)
        if frame.data:
            self.desk.feed(frame.ticket, bytes(frame.data))
        if frame.whole:
            self._close(frame)

    def _close(self, frame: OpenFrame) -> None:
        if frame.ticket is not None:
            self.desk.close(frame.ticket)

    def _repeat(self, frame: OpenFrame) -> None:
        """Answer once more as before, and forget the frame; its bytes may have got to the disk since."""
        if frame.client is not None and frame.former is not None:
            frame.client.send(replace(frame.former, stored=frame.kept >= len(frame.data)))
        self._drop(frame)

    def _drop_idle(self, camera: str) -> None:
        """Forget frames of *camera* that have their result, but for the latest: bytes that come now are ignored."""
        idle = [frame for frame in self._frames.values() if frame.camera == camera and frame.answered]
        for frame in idle[: -self._limits.frames]:
            self._drop(frame)

    def _drop(self, frame: OpenFrame) -> None:
        """Forget a frame; bytes that the disk does not have yet are written."""
        if self._frames.get((frame.camera, frame.sequence)) is not frame:
            return
        del self._frames[frame.camera, frame.sequence]
        self._claimed -= frame.size
        self._gauge()
        if frame.kept < len(frame.data):
            self._spawn(self._keep(frame))

    def _gauge(self) -> None:
        self.metrics.open_frames.set(sum(1 for frame in self._frames.values() if not frame.answered))
        self.metrics.open_bytes.set(self._claimed)

    # What workers say, on the event loop.

    def finishing(self, frame: OpenFrame) -> None:
        """Begin to write while the picture is made."""
        frame.write = asyncio.ensure_future(self._keep(frame))

    def looked(self, frame: OpenFrame, image: Image, label: Label | None, size: int) -> None:
        """Show a preview to whoever looks."""
        if self.events.watched:
            self._spawn(self._show(frame, image, label, size))

    def enough(self, frame: OpenFrame) -> None:
        """Tell the camera."""
        self.metrics.enough.inc()
        if frame.client is not None and not frame.answered:
            frame.client.send(Enough(frame.sequence))

    def answered(self, frame: OpenFrame, outcome: Outcome) -> None:
        """Answer."""
        self._spawn(self._answer(frame, outcome))

    async def _answer(self, frame: OpenFrame, outcome: Outcome) -> None:
        if frame.write is not None:
            await self._wait_for_disk(frame, frame.write)
            if frame.kept < len(frame.data) and self._left_s(frame) > 0.02:  # more came meanwhile
                await self._wait_for_disk(frame, asyncio.ensure_future(self._keep(frame)))
        picture, label = outcome.picture, outcome.label
        left_s = self._left_s(frame)
        result = Result(
            sequence=frame.sequence,
            status=outcome.status,
            bytes=0 if picture is None or picture.image is None else picture.bytes_used,
            steps=0.0 if picture is None else float(picture.steps),
            steps_total=0 if picture is None else picture.steps_total,
            margin_ms=None if math.isinf(left_s) else 1000 * left_s,
            stored=frame.kept >= len(frame.data),
            label=None if label is None else label.name,
            confidence=None if label is None else label.confidence,
        )
        frame.answered, frame.former, frame.ticket, frame.write = True, result, None, None
        if frame.client is not None:
            frame.client.send(result)
        if frame.client is None or frame.whole or frame.ended:
            self._drop(frame)
        self._drop_idle(frame.camera)
        self._gauge()
        self.desk.note_cost(frame.camera, outcome.seconds)
        self.metrics.frames.labels(frame.camera, result.status).inc()
        self.metrics.decode_s.observe(outcome.seconds)
        if result.margin_ms is not None:
            self.metrics.margin_ms.observe(result.margin_ms)
        if outcome.message:
            LOG.info("camera %s, frame %d: %s: %s", frame.camera, frame.sequence, outcome.status, outcome.message)
        jpeg = None
        if self.events.watched and picture is not None and picture.image is not None:
            jpeg = await self._small_jpeg(picture.image)
        del outcome, picture  # the disk may take its time
        try:
            await self._disk.write(0, self.store.note, frame.camera, result)
        except OutputError as fault:
            self._store_failed(fault)
        self.events.publish(FrameAnswered(frame.camera, result, frame.size, len(frame.data), frame.received, jpeg))

    async def _wait_for_disk(self, frame: OpenFrame, write: asyncio.Future[None]) -> None:
        """Wait for *write*, for half of the time left at most: then the answer says that it is not stored."""
        left_s = self._left_s(frame)
        await asyncio.wait({write}, timeout=None if math.isinf(left_s) else max(0.0, left_s / 2 - _SEND_S))

    async def _keep(self, frame: OpenFrame) -> None:
        """Write what is held of *frame*, unless that waits for the disk already."""
        size = len(frame.data)
        if size and size <= frame.writing:
            return
        frame.writing = size
        try:
            data = bytes(frame.data)
            keep = self.store.keep
            await self._disk.write(size, keep, frame.camera, frame.sequence, frame.size, frame.captured, data)
            frame.kept = max(frame.kept, size)
            self.metrics.store_bytes.set(self.store.stream_bytes)
        except OutputError as fault:
            if frame.writing == size:
                frame.writing = frame.kept
            self._store_failed(fault)

    async def _show(self, frame: OpenFrame, image: Image, label: Label | None, size: int) -> None:
        jpeg = await self._small_jpeg(image)
        if not frame.answered:
            name, confidence = (None, None) if label is None else (label.name, label.confidence)
            self.events.publish(FrameProgress(frame.camera, frame.sequence, size, frame.size, jpeg, name, confidence))

    async def _small_jpeg(self, image: Image) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._to_jpeg, small_jpeg, image)

    def _left_s(self, frame: OpenFrame) -> float:
        return math.inf if frame.due is None else frame.due - self._clock()

    def _store_failed(self, fault: OutputError) -> None:
        self.metrics.store_errors.inc()
        LOG.error("%s", fault)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            LOG.error("a task has failed", exc_info=task.exception())


class _Hearing:
    """Carries what a worker says over to the event loop."""

    def __init__(self, intake: Intake, frame: OpenFrame, loop: asyncio.AbstractEventLoop) -> None:
        self._intake, self._frame, self._loop = intake, frame, loop

    def finishing(self) -> None:
        self._loop.call_soon_threadsafe(self._intake.finishing, self._frame)

    def looked(self, image: Image, label: Label | None, size: int) -> None:
        self._loop.call_soon_threadsafe(self._intake.looked, self._frame, image, label, size)

    def enough(self) -> None:
        self._loop.call_soon_threadsafe(self._intake.enough, self._frame)

    def answered(self, outcome: Outcome) -> None:
        self._loop.call_soon_threadsafe(self._intake.answered, self._frame, outcome)
