"""The edge client, put together.

    source → capture thread → newest picture → encoding thread → camera frame ┬→ dispatch ↔ transport ↔ server
                                                                              └→ spool thread ─┘

One event loop owns dispatch and transport; the spool has a thread, as disks wait. SIGTERM and the end of the source
drain: no more pictures, what is under way gets its time, the rest goes to the spool.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import logging
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from edge_client.capture import Capture, Newest
from edge_client.counter import Counter
from edge_client.dispatch import Dispatch, Finished
from edge_client.encoding import Encoding
from edge_client.frames import CameraFrame
from edge_client.link import Link
from edge_client.metrics import Metrics
from edge_client.schedule import Pace
from edge_client.settings import EdgeSettings
from edge_client.sources import import_cv2, open_source, source_name
from edge_client.spool import Spool, Spooled
from edge_client.status import StatusServer
from edge_client.tasks import end, until_first
from edge_client.transport import Transport
from runtime.codec import Codec
from runtime.errors import ConfigurationError, EngineError, OutputError

_LOG = logging.getLogger(__name__)
_TICK_S = 0.25
_TEND_S = 60.0
_REST_S = 30.0
_MOST_NOTES = 200  # for the spool's thread, beside one for each frame under way: what memory holds while a disk hangs
_REFILL_S = 0.02
_STUCK_S = 10.0
_ENCODE_S = 10.0  # for the picture that is being encoded when the client ends

T = TypeVar("T")


class Client:
    """One camera's client; `run` is all there is to it."""

    def __init__(self, settings: EdgeSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Open what must be there: OpenCV, the bundle, the state folder, the status port.

        Raises:
            CutoffError: something is missing; nothing was started.
        """
        self._settings, self._clock = settings, clock
        self._cv2 = import_cv2()
        self.metrics = Metrics()
        sending, codec = settings.sending, settings.codec
        self._codec = Codec.open(
            codec.bundle, codec.engine, codec.threads or None, coder=codec.coder, precision=codec.precision
        )
        self._counter = Counter(settings.state, settings.camera)
        pace = Pace(sending.chunk_bytes, sending.answer_s, sending.queue_s)
        self._link = Link(sending.rate_kbps * 1000 / 8, queue_s=sending.queue_s)
        self.dispatch = Dispatch(self._link, pace, sending.frames, sending.frame_bytes or None)
        self._newest = Newest()
        self._capture = Capture(
            lambda: open_source(settings.source, self._cv2), self._newest, settings.source.fps, clock=clock
        )
        self._spool: Spool | None = None
        self._refusal: ConfigurationError | None = None  # the spool is another camera's
        self._spool_thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._resting: dict[int, float] = {}  # frames of the spool that made no progress, and until when they wait
        self._lately: collections.Counter[str] = collections.Counter()
        self._notes: set[asyncio.Future[None]] = set()
        self._spool_behind = False
        self._ticked_at = clock()
        self._draining = False
        self._status = (
            StatusServer(settings.status.host, settings.status.port, self.metrics.registry, self.healthy, self.ready)
            if settings.status.port
            else None
        )

    async def run(self) -> None:
        """Send pictures until SIGTERM, SIGINT or the end of the source; then drain.

        Raises:
            CutoffError: it cannot start, or pictures cannot be encoded any more.
        """
        loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._refill = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread
                loop.add_signal_handler(number, self._stop.set)
        self._transport = Transport(
            self._settings.server,
            self._settings.camera,
            self._codec.bundle.exact_id,
            self.dispatch,
            self.metrics,
            self._changed,
            clock=self._clock,
        )
        encoding = Encoding(
            self._codec,
            self._settings,
            self._newest,
            self._counter.next,
            lambda frame: loop.call_soon_threadsafe(self._encoded, frame),
            lambda: loop.call_soon_threadsafe(self._stop.set),
            self.metrics,
            self._cv2,
        )
        _LOG.info("starting", extra={"camera": self._settings.camera, "source": source_name(self._settings.source)})
        self._note(lambda spool: spool.tend())  # opens it; to check a large one takes a while
        tasks = [asyncio.ensure_future(one) for one in (self._transport.run(), self._tick(), self._resend())]
        await asyncio.to_thread(encoding.warm_up)
        encoding.start()
        self._capture.start()
        try:
            await until_first(self._stop.wait(), *(asyncio.shield(task) for task in tasks))
            await self._drain(encoding)
        finally:
            await end(tasks)
            await self._close(encoding)
        if self._refusal is not None:
            raise self._refusal
        if encoding.fault is not None:
            raise EngineError(f"encoding failed again and again: {encoding.fault}") from encoding.fault

    def stop(self) -> None:
        """Begin to drain; to be called in the event loop."""
        self._stop.set()

    def healthy(self) -> dict[str, bool]:
        """Return whether event loop and camera's driver run; what a supervisor should restart the client for."""
        return {"loop": self._clock() - self._ticked_at < _STUCK_S, "driver": not self._capture.stuck}

    def ready(self) -> dict[str, bool]:
        """Return whether pictures come in and go out."""
        return {"source": self._capture.working, "server": self.dispatch.online, "running": not self._draining}

    def _encoded(self, frame: CameraFrame) -> None:
        if self._settings.spool.keep == "all":
            self._note(lambda spool: spool.add(frame))
        self.dispatch.add(frame)
        self._changed()
        self._transport.wake()

    def _changed(self) -> None:
        """See what dispatch has finished, and what of it concerns the spool."""
        now = self._clock()
        for one in self.dispatch.finished(now):
            self._count(one)
            self._settle(one)
        if self.dispatch.spare():
            self._refill.set()

    def _count(self, one: Finished) -> None:
        metrics, due = self.metrics, one.frame.due
        if due is None:
            metrics.resent.labels(one.result.status if one.result else one.why).inc()
            return
        metrics.frames.labels(one.why).inc()
        if one.result is not None and one.answered_at is not None:
            metrics.answers.labels(one.result.status).inc()
            metrics.answer_s.observe(one.answered_at - one.frame.taken)
            if one.answered_at <= due and one.result.status in ("ok", "preview", "damaged"):
                metrics.in_time.inc()
                self._lately["in_time"] += 1
        self._lately[one.why] += 1
        content = {"sequence": one.frame.sequence, "why": one.why, "held": one.held, "result": one.result}
        _LOG.debug("frame finished", extra=content)

    def _settle(self, one: Finished) -> None:
        """Tell the spool what the server has stored, or give it what it should keep."""
        frame, stored = one.frame, one.result is not None and one.result.stored
        held = one.held if stored else 0
        done = stored and (one.enough or held >= self._wanted(frame))
        if frame.due is None and not done and (not stored or one.held <= one.held_before):
            self._resting[frame.sequence] = self._clock() + _REST_S
        if self._settings.spool.keep == "all" or frame.due is None:
            if stored:
                self._note(lambda spool: spool.stored(frame.sequence, held, done=done))
        elif not done:
            self._note(lambda spool: spool.add(frame, held))

    def _wanted(self, frame: CameraFrame) -> int:
        """Return how many bytes of *frame* are to reach the server: no fewer than make a picture."""
        whole = len(frame.stream)
        return min(whole, max(self._settings.spool.frame_bytes or whole, frame.worth.first))

    async def _resend(self) -> None:
        """Give dispatch frames of the spool whenever it can take some."""
        while True:
            await self._refill.wait()
            await asyncio.sleep(_REFILL_S)  # many messages, one look
            self._refill.clear()
            now = self._clock()
            self._resting = {sequence: until for sequence, until in self._resting.items() if until > now}
            spare, without = self.dispatch.spare(), self.dispatch.under_way | self._resting.keys()
            if self._draining or self._spool is None or not spare or not self._spool.frames:
                continue
            found = self._in_spool(functools.partial(self._best, spare, without))
            for one in await self._reported(found) or ():
                if self.dispatch.spare() and not self._draining:
                    self.dispatch.add(one.frame, self._portion(one), known=one.held)
                    self._transport.wake()

    def _best(self, count: int, without: frozenset[int]) -> list[Spooled]:
        return self._spool.best(count, without) if self._spool is not None else []

    def _portion(self, one: Spooled) -> int:
        """Return up to where *one* is sent this time: first its beginning, then the rest."""
        wanted, first = self._wanted(one.frame), max(self._settings.spool.portion_bytes, one.frame.worth.first)
        return min(wanted, first) if one.held < first else wanted

    async def _tick(self) -> None:
        tended_at = self._clock()
        while True:
            self._ticked_at = now = self._clock()
            self._changed()
            self._measure(now)
            if now - tended_at > _TEND_S:
                tended_at = now
                self._sum_up(now)
                self._note(lambda spool: spool.tend())
            await asyncio.sleep(_TICK_S)

    def _sum_up(self, now: float) -> None:
        """Log what became of the frames of the last minute."""
        spooled = self._spool.frames if self._spool is not None else 0
        content = {"connected": self.dispatch.online, "rate": round(self._link.rate(now)), "in_spool": spooled}
        _LOG.info("last minute", extra={**self._lately, **content})
        self._lately.clear()

    def _measure(self, now: float) -> None:
        metrics = self.metrics
        metrics.connected.set(self.dispatch.online)
        metrics.source.set(self._capture.working)
        metrics.rate.set(self._link.rate(now))
        metrics.round_trip_s.set(self._link.round_trip_s)
        metrics.server_answer_s.set(self.dispatch.answer_time.seconds)
        metrics.in_flight.set(self._link.in_flight)
        metrics.sent_bytes.set(self.dispatch.bytes_sent)
        metrics.captured.set(self._capture.pictures)
        metrics.replaced.set(self._newest.replaced)
        if self._spool is not None:
            metrics.spool_frames.set(self._spool.frames)
            metrics.spool_bytes.set(self._spool.size_bytes)
            metrics.spool_evicted.set(self._spool.evicted)
            metrics.spool_set_aside.set(self._spool.set_aside)

    async def _drain(self, encoding: Encoding) -> None:
        """Take no more pictures; wait for what is under way, each frame until its deadline at the latest."""
        _LOG.info("draining", extra={"under_way": self.dispatch.live})
        self._draining = True
        await asyncio.to_thread(self._capture.stop)
        await asyncio.to_thread(encoding.join, _ENCODE_S)
        await asyncio.sleep(0)  # the last frame is delivered
        last = self._clock() + self._settings.sending.drain_s
        while self.dispatch.live and self._clock() < last:
            if self._settings.spool.file is not None and not self.dispatch.online:
                break  # what waits is safe there
            await asyncio.sleep(0.02)
            self._changed()

    async def _close(self, encoding: Encoding) -> None:
        self.dispatch.close()
        self._changed()
        if self._notes:
            await asyncio.wait(set(self._notes))
        await self._reported(self._in_spool(self._close_spool))
        self._spool_thread.shutdown()
        if self._status is not None:
            self._status.close()
        if encoding.join(0):
            self._codec.close()
        self._counter.close()
        _LOG.info("ended", extra={"in_spool": self._spool.frames if self._spool else 0})

    def _open_spool(self) -> None:
        settings, camera = self._settings.spool, self._settings.camera
        if settings.file is not None:
            self._spool = Spool(settings.file, camera, settings.most_bytes, settings.most_hours * 3600, self._clock)

    def _close_spool(self) -> None:
        if self._spool is not None:
            self._spool.close()

    def _note(self, work: Callable[[Spool], None]) -> None:
        """Do *work* in the spool's thread, after what was noted before; not if a slow disk is far behind.

        It stands in the thread's queue at once, not when the event loop gets to it: a look for frames to send again
        that comes later sees what was noted.
        """
        behind, before = len(self._notes) >= _MOST_NOTES + self._settings.sending.frames, self._spool_behind
        self._spool_behind = behind
        if behind:
            self.metrics.spool_errors.inc()
            if not before:
                _LOG.error("spool failed", extra={"fault": "the disk is too slow: frames are not written"})
        elif self._settings.spool.file is not None:

            def in_thread() -> None:
                if self._spool is None:
                    self._open_spool()
                if self._spool is not None:
                    work(self._spool)

            task = asyncio.ensure_future(self._reported(self._in_spool(in_thread)))
            self._notes.add(task)
            task.add_done_callback(self._notes.discard)

    def _in_spool(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Put *work* into the queue of the spool's thread."""
        return asyncio.get_running_loop().run_in_executor(self._spool_thread, work)

    async def _reported(self, work: asyncio.Future[T]) -> T | None:
        """Return what *work* gives; None if the spool failed, which is logged and counted, or ends the client."""
        try:
            return await work
        except ConfigurationError as fault:  # another camera's spool: no frame may go into it, or come out of it
            self._refusal = fault
            self._stop.set()
            return None
        except OutputError as fault:  # the camera goes on
            self.metrics.spool_errors.inc()
            _LOG.error("spool failed", extra={"fault": str(fault)})
            return None
