"""A decode worker: one thread that feeds bytes to decoders as they arrive, and finishes each frame in time.

    feeds slices -> looks now and then (preview, early label), prepares -> finishes at the latest start -> labeller

It does one thing at a time, so it begins the answer of the most urgent frame early enough that those behind it still
keep their deadlines. Frames that would have to begin while it works on that one begin with it, as pictures of one size
may share a run of the networks (`runtime.batch`). Answers that may be given early, as a stream is whole, and all other
work run only where they are done before the latest start of all.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engines.costs import Costs
from runtime.batch import finish_together
from runtime.codec import Codec
from runtime.deadline import Deadline
from runtime.decoder import Decoder, Picture
from runtime.errors import CutoffError, Incomplete
from runtime.serve.labeller import Labeller, Listener, Outcome
from runtime.serve.schedule import Job, overload_s

LOG = logging.getLogger("cutoff.serve")
PATIENCE_S = 30.0  # within which a frame without a deadline is answered once nothing more of it comes
_SLICE = 2048  # bytes fed between two looks at the clock: some milliseconds of decoding
_SEND_S = 0.003  # from an answer to the wire
_EARLY_S = (0.001, 0.03)  # a thread that sleeps wakes up late by so much at least, and is not trusted to be later
_GROWTH = 1.25  # a look is due when there are so many times more bytes than at the last
_LOOK_S = 0.15  # and not more often than this
_LABEL_SHARE = 0.5  # of a frame's time that is kept for its label at most: the picture matters more


@dataclass(eq=False)
class Ticket:
    """One frame at the desk. Everything but `worker` and `due` belongs to the worker.

    Attributes:
        due: instant by which the answer must be there; None if it has none.
        late: it had passed already when the frame was opened.
        cost_s: of a worker's time that such a frame is expected to take.
    """

    worker: Worker
    listener: Listener
    due: float | None
    cost_s: float
    opened: float
    late: bool = False
    portions: deque[bytes] = field(default_factory=deque)
    closed_at: float | None = None  # since then nothing more comes: answer when there is time
    decoder: Decoder | None = None
    fed: int = 0
    pixels: int = 0  # of the padded picture, once its head segment is there
    spent_s: float = 0.0
    start_by: float = math.inf  # by when the answer must be begun, other frames not considered
    looked_at: tuple[int, float] = (0, -math.inf)  # bytes and instant of the last look
    fault: str = ""  # why the stream is of no use

    @property
    def closed(self) -> bool:
        """Nothing more comes."""
        return self.closed_at is not None

    @property
    def order_by(self) -> float:
        """By which tickets are ranked: the instant when they are due; without a deadline, one after they are closed.

        How long such a frame takes to come is nobody else's concern.
        """
        if self.due is not None:
            return self.due
        return math.inf if self.closed_at is None else self.closed_at + PATIENCE_S


class Worker(threading.Thread):
    """One thread with a codec of its own."""

    def __init__(
        self,
        codec: Codec,
        labeller: Labeller,
        enough: float | None,
        watched: Callable[[], bool],
        open_pixels: float,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(name="cutoff-decode", daemon=True)
        self._most_pixels = open_pixels
        self._codec, self._labeller, self._watched, self._clock = codec, labeller, watched, clock
        self._enough = None if labeller.classify is None else enough
        self._costs = Costs()  # of what the codec's own do not know: a slice of bytes, an answer, a look
        self._changed = threading.Condition()
        self._tickets: list[Ticket] = []
        self._stopping = False
        self._usual_pixels = 1

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
            if ticket.closed_at is None:
                ticket.closed_at = self._clock()
            if ticket.due is None:
                ticket.start_by = ticket.order_by
            self._changed.notify()

    def drop(self, ticket: Ticket) -> None:
        """Forget a frame, if its answer was not begun."""
        with self._changed:
            if ticket in self._tickets:
                self._tickets.remove(ticket)
                ticket.portions.clear()

    def stop(self) -> None:
        """Answer what is open, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def overload_s(self, job: Job) -> float:
        """Return by how many seconds *job* is too much beside what is open.

        Beside nothing it never is: nobody is late for it, and what frames take is learned only from those that are
        taken. A machine that was slow once would refuse for ever.
        """
        with self._changed:
            jobs = [Job(one.order_by, max(0.0, one.cost_s - one.spent_s)) for one in self._tickets]
        if not jobs:
            return 0.0
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
                    self._sleep()
                work, tickets = task
            try:
                work(tickets)
            except Exception as fault:
                LOG.exception("a worker has failed")
                self._give_up(tickets, fault)

    def _next(self) -> tuple[Callable[[Sequence[Ticket]], None], Sequence[Ticket]] | None:
        """Return what to do now, and with which; None if there is nothing to do yet. The lock is held."""
        if not self._tickets:
            return None
        ranked = sorted(self._tickets, key=lambda ticket: ticket.order_by)
        now = self._clock()
        begun = [ticket for ticket in ranked if ticket.decoder is not None]
        faulty = [ticket for ticket in ranked if ticket.fault]
        if faulty:
            return self._finish, faulty
        if self._stopping:
            # What came is decoded first, unless it is too late for that anyway.
            done = [one for one in ranked if not one.portions or (one.due is not None and one.due <= now)]
            return (self._finish, done) if done else (self._feed, (begun or ranked)[:1])
        early_s = self._early_s()
        left = self._latest_start(ranked) - now - early_s
        if left <= 0:
            # One that was not begun is answered when its time is up, and no sooner: nothing could be made of it.
            first = next(ticket for ticket in ranked if ticket in begun or ticket.start_by - now <= early_s)
            return self._finish, self._with(first, begun, now)
        may_begin, left_of_begun = self._has_room(ranked), self._latest_start(begun) - now - early_s
        for ticket in ranked:
            if ticket.portions and (ticket.decoder is not None or may_begin):
                # Where none is begun, this one is, however long that took of late: all would be missed otherwise, and
                # what is never measured again is believed for ever.
                if self._slice_s(ticket) < left or not begun:
                    return self._feed, [ticket]
                # One of which nothing came is answered meanwhile; what comes of others is worth waiting for that.
                if self._slice_s(ticket) >= left_of_begun:
                    return self._finish, self._with(begun[0], begun, now)
            if ticket.closed and not ticket.portions and (ticket is ranked[0] or self._answer_s(ticket) < left):
                return self._finish, self._ready_with(ticket, ranked, left)
        for ticket in ranked:
            if self._look_is_due(ticket, now) and self._costs.estimate_s("look", self._pixels(ticket)) < left:
                return self._look, [ticket]
            if self._may_prepare(ticket) and self._costs.estimate_s("prepare", self._pixels(ticket)) < left:
                return self._prepare, [ticket]
        return None

    def _has_room(self, ranked: Sequence[Ticket]) -> bool:
        """Return whether one more picture may be decoded beside those that are."""
        begun = [self._pixels(ticket) for ticket in ranked if ticket.decoder is not None]
        return not begun or sum(begun) + self._usual_pixels <= self._most_pixels

    def _with(self, first: Ticket, begun: Sequence[Ticket], now: float) -> Sequence[Ticket]:
        """Return *first* and those that lose nothing by being answered with it: they would have to begin meanwhile."""
        until = now + self._answer_s(first)
        others = [one for one in begun if one is not first and one.start_by - self._answer_s(one) <= until]
        return [first, *others]

    def _ready_with(self, first: Ticket, ranked: Sequence[Ticket], left: float) -> Sequence[Ticket]:
        """Return *first* and others that wait for nothing, as many as are done in *left* seconds."""
        group, spent_s = [first], self._answer_s(first)
        for one in ranked:
            if one is not first and one.closed and not one.portions and spent_s + self._answer_s(one) < left:
                group.append(one)
                spent_s += self._answer_s(one)
        return group

    def _latest_start(self, ranked: Sequence[Ticket]) -> float:
        """Return the instant at which the most urgent answer has to be begun, for the sake of all."""
        start = math.inf
        for ticket in reversed(ranked):
            start = min(ticket.start_by, start - self._answer_s(ticket))
        return start

    def _sleep(self) -> None:
        """Wait until something changes or is to be done, and learn how punctual that is. The lock is held."""
        left_s = self._sleep_s()
        until = math.inf if left_s is None else self._clock() + left_s
        if not self._changed.wait(left_s):
            self._costs.record("wake", 1, max(0.0, self._clock() - until))

    def _early_s(self) -> float:
        """Return how much earlier than needed this thread should wake up."""
        least, most = _EARLY_S
        return min(most, max(least, self._costs.estimate_s("wake", 1)))

    def _sleep_s(self) -> float | None:
        """Return how long nothing has to be done; None: until something changes. The lock is held."""
        ranked = sorted(self._tickets, key=lambda ticket: ticket.order_by)
        start = self._latest_start(ranked)
        if any(self._wants_looks(ticket) for ticket in ranked):
            start = min(start, self._clock() + _LOOK_S)
        return None if math.isinf(start) else max(0.0, start - self._early_s() - self._clock())

    # Work.

    def _feed(self, tickets: Sequence[Ticket]) -> None:
        (ticket,) = tickets
        with self._changed:
            portion = _take(ticket.portions, _SLICE)
        began = self._clock()
        stage = self._slice_stage(ticket)
        if ticket.decoder is None:
            ticket.decoder = self._codec.decoder(self._decoder_deadline(ticket))
        try:
            ticket.decoder.feed(portion)
            if not ticket.pixels:
                ticket.pixels = self._usual_pixels = ticket.decoder.rendering().pixels
        except Incomplete:
            pass
        except CutoffError as fault:
            ticket.fault = str(fault)
        ticket.fed += len(portion)
        took_s = self._clock() - began
        self._costs.record(stage, self._pixels(ticket), took_s)
        ticket.spent_s += took_s
        ticket.start_by = self._start_by(ticket)

    def _look(self, tickets: Sequence[Ticket]) -> None:
        """Make a preview; if the classifier is sure of it, stop asking for more."""
        (ticket,) = tickets
        began = self._clock()
        ticket.looked_at = ticket.fed, began
        assert ticket.decoder is not None
        try:
            image = ticket.decoder.preview()
        except CutoffError as fault:
            ticket.fault = str(fault)
            return
        if image is None:
            return
        classify = self._labeller.classify
        label = None if classify is None or self._enough is None else classify(image)
        took_s = self._clock() - began
        self._costs.record("look", self._pixels(ticket), took_s)
        ticket.spent_s += took_s
        ticket.listener.looked(image, label, ticket.fed)
        if label is not None and self._enough is not None and label.confidence >= self._enough and not ticket.closed:
            self.close(ticket)
            ticket.listener.enough()

    def _prepare(self, tickets: Sequence[Ticket]) -> None:
        """Make the preview that answers if synthesis has to be ended; the answer need be begun later then."""
        (ticket,) = tickets
        assert ticket.decoder is not None
        began = self._clock()
        try:
            ticket.decoder.prepare()
        except CutoffError as fault:
            ticket.fault = str(fault)
        took_s = self._clock() - began
        self._costs.record("prepare", self._pixels(ticket), took_s)
        ticket.spent_s += took_s
        ticket.start_by = self._start_by(ticket)

    def _finish(self, tickets: Sequence[Ticket]) -> None:
        """Answer *tickets*, each as soon as its picture is there."""
        with self._changed:
            mine = [ticket for ticket in tickets if ticket in self._tickets]
            self._tickets = [ticket for ticket in self._tickets if ticket not in mine]
        waiting: dict[Decoder, Ticket] = {}
        now = self._clock()
        for ticket in mine:
            ticket.listener.finishing()
            if ticket.late or (ticket.due is not None and now >= ticket.due):
                self._labeller.hand_on(ticket.listener, ticket.due, Outcome("missed", None, None, ticket.spent_s))
            elif ticket.decoder is None and ticket.portions:
                self._labeller.hand_on(
                    ticket.listener, ticket.due, Outcome("missed", None, None, ticket.spent_s)
                )  # it was never its turn
            elif ticket.fault or ticket.decoder is None:
                why = ticket.fault or "nothing of the stream came"
                self._labeller.hand_on(
                    ticket.listener, ticket.due, Outcome("unusable", None, None, ticket.spent_s, why)
                )
            else:
                waiting[ticket.decoder] = ticket
            ticket.portions.clear()
            ticket.decoder = None
        count, began = len(waiting), now
        try:
            for decoder, result in finish_together(list(waiting)):
                ticket = waiting.pop(decoder)
                now = self._clock()
                ticket.spent_s += now - began
                self._costs.record("answer", self._pixels(ticket), now - began)
                began = now
                self._labeller.hand_on(ticket.listener, ticket.due, self._outcome(ticket, result))
        except Exception as fault:
            LOG.exception("%d frame(s) could not be finished", count)
            self._give_up(list(waiting.values()), fault)

    def _outcome(self, ticket: Ticket, result: Picture | CutoffError) -> Outcome:
        if isinstance(result, CutoffError):
            return Outcome("unusable", None, None, ticket.spent_s, str(result))
        if result.image is None or (ticket.due is not None and self._clock() > ticket.due):
            status = "missed"
        elif result.damaged:
            status = "damaged"
        else:
            status = "preview" if set(result.skipped) & set(self._codec.model.family.synthesis) else "ok"
        return Outcome(status, result, None, ticket.spent_s)

    def _give_up(self, tickets: Sequence[Ticket], fault: Exception) -> None:
        """Answer frames on which something failed that should not have."""
        with self._changed:
            self._tickets = [ticket for ticket in self._tickets if ticket not in tickets]
        for ticket in tickets:
            ticket.listener.answered(Outcome("unusable", None, None, ticket.spent_s, f"internal error: {fault!r}"))

    # Time.

    def _decoder_deadline(self, ticket: Ticket) -> Deadline | None:
        """Return by when the picture must be there; what a label may take is kept, but not all the time there is."""
        if ticket.due is None:
            return None
        left_s = max(0.0, ticket.due - _SEND_S - self._clock())
        return Deadline(ticket.due - _SEND_S - min(self._labeller.cost_s, _LABEL_SHARE * left_s))

    def _start_by(self, ticket: Ticket) -> float:
        """Return by when the answer must be begun; infinite while a frame without a deadline still grows."""
        if ticket.due is None:
            return ticket.order_by
        finish_by = None if ticket.decoder is None else ticket.decoder.finish_by()
        return ticket.due - _SEND_S if finish_by is None else finish_by

    def _pixels(self, ticket: Ticket) -> int:
        """Return the size of a frame's picture; of one whose size did not come yet, that of the last one."""
        return ticket.pixels or self._usual_pixels

    def _slice_stage(self, ticket: Ticket) -> str:
        return "slice" if ticket.pixels else "begin"

    def _slice_s(self, ticket: Ticket) -> float:
        return self._costs.estimate_s(self._slice_stage(ticket), self._pixels(ticket))

    def _answer_s(self, ticket: Ticket) -> float:
        return 0.0 if ticket.decoder is None else self._costs.estimate_s("answer", self._pixels(ticket))

    def _may_prepare(self, ticket: Ticket) -> bool:
        return ticket.decoder is not None and not ticket.closed and ticket.decoder.may_prepare()

    def _wants_looks(self, ticket: Ticket) -> bool:
        return ticket.decoder is not None and not ticket.closed and (self._enough is not None or self._watched())

    def _look_is_due(self, ticket: Ticket, now: float) -> bool:
        size, instant = ticket.looked_at
        grown = ticket.fed >= _GROWTH * max(1, size) and now - instant >= _LOOK_S
        return grown and ticket.pixels > 0 and self._wants_looks(ticket)


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
