"""The decode desk: worker threads that feed bytes to decoders as they arrive, and finish each frame in time.

    loop: Desk.open -> Ticket;  Desk.feed(ticket, bytes);  Desk.close(ticket): nothing more comes, answer now
    worker: feeds slices -> looks now and then (preview, early label) -> finishes at the latest start -> Outcome

A worker does one thing at a time, so it begins the answer of the most urgent frame early enough that those behind it
still keep their deadlines (`runtime.serve.schedule`). Answers that may be given early, as a stream is whole, and all
other work run only where they are done before that instant.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from engines.costs import Costs
from runtime.codec import Codec
from runtime.deadline import Deadline
from runtime.decoder import Decoder, Picture
from runtime.errors import CutoffError, DataError, Incomplete, LimitExceeded
from runtime.picture import Image
from runtime.serve.schedule import Job, overload_s

LOG = logging.getLogger("cutoff.serve")
_SLICE = 2048  # bytes fed between two looks at the clock: some milliseconds of decoding
_SEND_S = 0.003  # from an answer to the wire
_EARLY_S = 0.001  # a thread that sleeps wakes up late by about this much
_PATIENCE_S = 30.0  # frames without a deadline are treated as if theirs were this far away
_GROWTH = 1.25  # a look is due when there are so many times more bytes than at the last
_LOOK_S = 0.15  # and not more often than this
_MEMORY = 0.8  # how slowly the mean cost of a camera's frames forgets


@dataclass(frozen=True)
class Label:
    """What the classifier says: the name of a class and its probability."""

    name: str
    confidence: float


Classify = Callable[[Image], Label]


@dataclass(frozen=True)
class Outcome:
    """What was made of a frame.

    Attributes:
        status: as of `runtime.protocol.Result`.
        picture: None if there is none at all.
        label: None without a classifier, a picture, or time.
        seconds: of a worker's time, in all.
        message: what was wrong with a stream that is "unusable".
    """

    status: str
    picture: Picture | None
    label: Label | None
    seconds: float
    message: str = ""


class Listener(Protocol):
    """Who hears of a frame; called on a worker's thread, so it must be quick."""

    def finishing(self) -> None:
        """The answer is being made from what was fed so far."""

    def looked(self, image: Image, label: Label | None, size: int) -> None:
        """A preview was made of the first *size* bytes, and classified if that is wanted."""

    def enough(self) -> None:
        """Further bytes are of no use."""

    def answered(self, outcome: Outcome) -> None:
        """The frame is done; the last call."""


@dataclass(eq=False)
class Ticket:
    """One frame at the desk. Everything but `worker` and `due` belongs to the worker.

    Attributes:
        due: instant by which the answer must be there; None if it has none.
        cost_s: of a worker's time that such a frame is expected to take.
    """

    worker: Worker
    listener: Listener
    due: float | None
    cost_s: float
    opened: float
    portions: deque[bytes] = field(default_factory=deque)
    closed: bool = False  # nothing more comes: answer when there is time
    decoder: Decoder | None = None
    fed: int = 0
    spent_s: float = 0.0
    start_by: float = math.inf  # by when the answer must be begun, other frames not considered
    looked_at: tuple[int, float] = (0, -math.inf)  # bytes and instant of the last look
    fault: str = ""  # why the stream is of no use

    @property
    def order_by(self) -> float:
        """By which tickets are ranked: the instant when they are due, a late one for those that have none."""
        return self.due if self.due is not None else self.opened + _PATIENCE_S


class Desk:
    """Worker threads and who is served by which."""

    def __init__(
        self,
        codecs: list[Codec],
        classify: Classify | None = None,
        *,
        enough: float | None = None,
        watched: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take a worker for each of *codecs*, which belong to the desk from now on.

        Args:
            classify: what the classifier says of a picture; any worker may call it.
            enough: confidence from which on further bytes are of no use.
            watched: somebody wants to see previews.
        """
        self._clock = clock
        self._workers = [Worker(codec, classify, enough, watched, clock) for codec in codecs]
        self._mean_cost_s: dict[str, float] = {}

    def start(self) -> None:
        """Start the threads."""
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """Answer what is open as well as that is possible at once, end the threads and free the codecs."""
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.join()

    def overload_s(self, camera: str, due: float | None) -> float:
        """Return by how much one more frame of *camera*, due then, is too much for the least busy worker."""
        if due is None:
            return 0.0
        job = Job(due, self._expected_s(camera))
        return min(worker.overload_s(job) for worker in self._workers)

    def open(self, camera: str, due: float | None, listener: Listener) -> Ticket:
        """Take a frame of *camera* whose answer is *due* then; None: when there is time."""
        cost_s = self._expected_s(camera)
        job = Job(due if due is not None else self._clock() + _PATIENCE_S, cost_s)
        worker = min(self._workers, key=lambda worker: (worker.overload_s(job), worker.open_tickets))
        ticket = Ticket(worker, listener, due, cost_s, self._clock())
        worker.add(ticket)
        return ticket

    def feed(self, ticket: Ticket, data: bytes) -> None:
        """Hand over the next bytes of a frame's stream; nothing happens if it was answered."""
        ticket.worker.feed(ticket, data)

    def close(self, ticket: Ticket) -> None:
        """Say that nothing more comes."""
        ticket.worker.close(ticket)

    def note_cost(self, camera: str, seconds: float) -> None:
        """Remember what a frame of *camera* took, in a worker's seconds."""
        known = self._mean_cost_s.get(camera, seconds)
        self._mean_cost_s[camera] = _MEMORY * known + (1 - _MEMORY) * seconds

    def _expected_s(self, camera: str) -> float:
        """Return what a frame of *camera* is expected to take: as its last ones, or as those of others."""
        known = self._mean_cost_s
        return known.get(camera, max(known.values(), default=0.0))

    @property
    def open_tickets(self) -> int:
        """Frames that were not answered yet."""
        return sum(worker.open_tickets for worker in self._workers)


class Worker(threading.Thread):
    """One thread with a codec of its own."""

    def __init__(
        self,
        codec: Codec,
        classify: Classify | None,
        enough: float | None,
        watched: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(name="cutoff-decode", daemon=True)
        self._codec, self._classify, self._enough, self._watched, self._clock = codec, classify, enough, watched, clock
        self._costs = Costs()  # of what the codec's own do not know: a slice of bytes, an answer, a look, a label
        self._changed = threading.Condition()
        self._tickets: list[Ticket] = []
        self._stopping = False

    # Called by anybody.

    def add(self, ticket: Ticket) -> None:
        """Take a frame."""
        with self._changed:
            self._tickets.append(ticket)
            ticket.start_by = self._start_by(ticket)
            self._changed.notify()

    def feed(self, ticket: Ticket, data: bytes) -> None:
        """Hand over bytes."""
        with self._changed:
            if ticket in self._tickets:
                ticket.portions.extend(data[start : start + _SLICE] for start in range(0, len(data), _SLICE))
                self._changed.notify()

    def close(self, ticket: Ticket) -> None:
        """Nothing more comes."""
        with self._changed:
            ticket.closed = True
            self._changed.notify()

    def stop(self) -> None:
        """Answer what is open, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def overload_s(self, job: Job) -> float:
        """Return by how many seconds *job* is too much beside what is open."""
        with self._changed:
            jobs = [Job(one.order_by, max(0.0, one.cost_s - one.spent_s)) for one in self._tickets]
        return overload_s([*jobs, job], self._clock())

    @property
    def open_tickets(self) -> int:
        """Frames that were not answered yet."""
        return len(self._tickets)

    # The thread.

    def run(self) -> None:
        """Work until `stop`."""
        while True:
            with self._changed:
                while (task := self._next()) is None:
                    if self._stopping and not self._tickets:
                        self._codec.close()
                        return
                    self._changed.wait(self._sleep_s())
                work, ticket = task
            began = self._clock()
            try:
                work(ticket)
            except Exception as fault:
                LOG.exception("a worker failed on a frame")
                self._give_up(ticket, fault)
            finally:
                ticket.spent_s += self._clock() - began

    def _next(self) -> tuple[Callable[[Ticket], None], Ticket] | None:
        """Return what to do now; None if there is nothing to do yet. The lock is held."""
        if not self._tickets:
            return None
        ranked = sorted(self._tickets, key=lambda ticket: ticket.order_by)
        most_urgent, now = ranked[0], self._clock()
        if self._stopping:
            return self._finish, most_urgent
        faulty = next((ticket for ticket in ranked if ticket.fault), None)
        if faulty is not None:
            return self._finish, faulty
        left = self._latest_start() - now - _EARLY_S
        if left <= 0:
            return self._finish, most_urgent
        for ticket in ranked:
            if ticket.portions:
                return (self._feed if self._slice_s(ticket) < left else self._finish), (
                    ticket if self._slice_s(ticket) < left else most_urgent
                )
            if ticket.closed and (ticket is most_urgent or self._answer_s(ticket) < left):
                return self._finish, ticket
        for ticket in ranked:
            if self._look_is_due(ticket, now) and self._estimate_s("look", ticket) < left:
                return self._look, ticket
        return None

    def _latest_start(self) -> float:
        """Return the instant at which the most urgent answer has to be begun, for the sake of all."""
        start = math.inf
        for ticket in sorted(self._tickets, key=lambda ticket: ticket.order_by, reverse=True):
            start = min(ticket.start_by, start - self._answer_s(ticket))
        return start

    def _sleep_s(self) -> float | None:
        start = self._latest_start()
        return None if math.isinf(start) else max(0.0, start - _EARLY_S - self._clock())

    # Work on one frame.

    def _feed(self, ticket: Ticket) -> None:
        with self._changed:
            portion = _take(ticket.portions, _SLICE)
        stage = "slice" if ticket.decoder is not None and ticket.fed > _SLICE else "begin"
        began = self._clock()
        if ticket.decoder is None:
            ticket.decoder = self._codec.decoder(self._decoder_deadline(ticket))
        try:
            ticket.decoder.feed(portion)
        except CutoffError as fault:
            ticket.fault = str(fault)
        ticket.fed += len(portion)
        self._costs.record(stage, 1, self._clock() - began)
        ticket.start_by = self._start_by(ticket)

    def _look(self, ticket: Ticket) -> None:
        """Make a preview; if the classifier is sure of it, stop asking for more."""
        began = self._clock()
        ticket.looked_at = ticket.fed, began
        assert ticket.decoder is not None
        image = ticket.decoder.preview()
        if image is None:
            return
        label = self._classify(image) if self._classify is not None and self._enough is not None else None
        self._costs.record("look", 1, self._clock() - began)
        ticket.listener.looked(image, label, ticket.fed)
        if label is not None and self._enough is not None and label.confidence >= self._enough and not ticket.closed:
            with self._changed:
                ticket.closed = True
            ticket.listener.enough()

    def _finish(self, ticket: Ticket) -> None:
        with self._changed:
            self._tickets.remove(ticket)
            ticket.portions.clear()
        began = self._clock()
        ticket.listener.finishing()
        outcome = self._answer(ticket, began)
        self._costs.record("answer", 1, self._clock() - began)
        ticket.decoder = None
        ticket.listener.answered(outcome)

    def _answer(self, ticket: Ticket, began: float) -> Outcome:
        def outcome(status: str, picture: Picture | None, label: Label | None = None, message: str = "") -> Outcome:
            return Outcome(status, picture, label, ticket.spent_s + self._clock() - began, message)

        if ticket.fault or ticket.decoder is None:
            return outcome("unusable", None, None, ticket.fault or "nothing of the stream came")
        if ticket.due is not None and began >= ticket.due:
            return outcome("missed", None)
        try:
            picture = ticket.decoder.finish()
        except (Incomplete, DataError, LimitExceeded) as fault:
            return outcome("unusable", None, None, str(fault))
        if picture.image is None:
            return outcome("missed", picture)
        label = self._label(ticket, picture.image)
        if ticket.due is not None and self._clock() > ticket.due:
            return outcome("missed", picture, label)
        if picture.damaged:
            return outcome("damaged", picture, label)
        by_preview = bool(set(picture.skipped) & set(self._codec.model.family.synthesis))
        return outcome("preview" if by_preview else "ok", picture, label)

    def _label(self, ticket: Ticket, image: Image) -> Label | None:
        if self._classify is None:
            return None
        began = self._clock()
        if ticket.due is not None and began + self._costs.estimate_s("label", 1) > ticket.due:
            return None
        label = self._classify(image)
        self._costs.record("label", 1, self._clock() - began)
        return label

    def _give_up(self, ticket: Ticket, fault: Exception) -> None:
        """Answer a frame on which something failed that should not have; it has not been answered yet, or just was."""
        with self._changed:
            if ticket in self._tickets:
                self._tickets.remove(ticket)
        ticket.listener.answered(Outcome("unusable", None, None, ticket.spent_s, f"internal error: {fault!r}"))

    # Time.

    def _decoder_deadline(self, ticket: Ticket) -> Deadline | None:
        return None if ticket.due is None else Deadline(ticket.due - _SEND_S - self._costs.estimate_s("label", 1))

    def _start_by(self, ticket: Ticket) -> float:
        if ticket.due is None:
            return ticket.order_by if ticket.closed else math.inf
        finish_by = None if ticket.decoder is None else ticket.decoder.finish_by()
        return ticket.due - _SEND_S if finish_by is None else finish_by

    def _slice_s(self, ticket: Ticket) -> float:
        return self._estimate_s("slice" if ticket.decoder is not None and ticket.fed > _SLICE else "begin", ticket)

    def _answer_s(self, ticket: Ticket) -> float:
        return self._estimate_s("answer", ticket) if ticket.decoder is not None else 0.0

    def _estimate_s(self, stage: str, ticket: Ticket) -> float:
        return self._costs.estimate_s(stage, 1)

    def _look_is_due(self, ticket: Ticket, now: float) -> bool:
        if ticket.decoder is None or ticket.closed or not (self._enough is not None or self._watched()):
            return False
        size, instant = ticket.looked_at
        return ticket.fed >= _GROWTH * max(1, size) and now - instant >= _LOOK_S


def _take(portions: deque[bytes], size: int) -> bytes:
    """Take up to *size* bytes off the front of *portions*."""
    taken: list[bytes] = []
    while portions and size > 0:
        first = portions.popleft()
        if len(first) > size:
            portions.appendleft(first[size:])
            first = first[:size]
        taken.append(first)
        size -= len(first)
    return b"".join(taken)
