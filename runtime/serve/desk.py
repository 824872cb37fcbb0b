"""The decode desk: which worker serves which frame, and whether one more can be served.

    loop: Desk.open -> Ticket;  Desk.feed(ticket, bytes);  Desk.close(ticket): nothing more comes, answer soon
    worker: decodes what comes of its tickets, and finishes each in time (`runtime.serve.worker`)
    labeller: classifies what came of it, where there is time -> Outcome

A frame is given to the worker that would be least late with it. What frames cost is learned by camera.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from runtime.codec import Codec
from runtime.serve.labeller import Classify, Labeller, Listener
from runtime.serve.schedule import Job
from runtime.serve.worker import PATIENCE_S, Ticket, Worker

_CAUTION = 2.0  # mean deviations by which a frame may cost more than the mean
_MEMORY = 0.8  # how slowly the mean cost of a camera's frames forgets


class Desk:
    """Worker threads and who is served by which."""

    def __init__(
        self,
        codecs: list[Codec],
        classify: Classify | None = None,
        *,
        enough: float | None = None,
        watched: Callable[[], bool] = lambda: False,
        open_pixels: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take a worker for each of *codecs*, which belong to the desk from now on.

        Args:
            classify: what the classifier says of a picture; any worker may call it.
            enough: confidence from which on further bytes are of no use.
            watched: somebody wants to see previews.
            open_pixels: of pictures that are being decoded, all together; a single one may have more.
        """
        self._clock = clock
        self._labeller = Labeller(classify, clock)
        share = open_pixels / len(codecs)
        self._workers = [Worker(codec, self._labeller, enough, watched, share, clock) for codec in codecs]
        self._costs_s: dict[str, tuple[float, float]] = {}  # of a camera's frames: mean, mean deviation

    def start(self) -> None:
        """Start the threads."""
        self._labeller.start()
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """Answer what is open as well as that is possible at once, end the threads and free the codecs."""
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.join()
        self._labeller.stop()
        self._labeller.join()

    def overload_s(self, camera: str, due: float | None) -> float:
        """Return by how much one more frame of *camera*, due then, is too much for the least busy worker."""
        if due is None:
            return 0.0
        job = Job(due, self._expected_s(camera))
        return min(worker.overload_s(job) for worker in self._workers)

    def open(self, camera: str, due: float | None, listener: Listener) -> Ticket:
        """Take a frame of *camera* whose answer is *due* then; None: when there is time."""
        cost_s = self._expected_s(camera)
        job = Job(due if due is not None else self._clock() + PATIENCE_S, cost_s)
        worker = min(self._workers, key=lambda worker: (worker.overload_s(job), worker.open_tickets))
        now = self._clock()
        ticket = Ticket(worker, listener, due, cost_s, now, late=due is not None and due <= now)
        worker.add(ticket)
        return ticket

    def feed(self, ticket: Ticket, data: bytes) -> None:
        """Hand over the next bytes of a frame's stream; nothing happens if it was answered."""
        ticket.worker.feed(ticket, data)

    def close(self, ticket: Ticket) -> None:
        """Say that nothing more comes."""
        ticket.worker.close(ticket)

    def drop(self, ticket: Ticket) -> None:
        """Forget a frame whose answer nobody waits for."""
        ticket.worker.drop(ticket)

    def note_cost(self, camera: str, seconds: float) -> None:
        """Remember what a frame of *camera* took, in a worker's seconds."""
        mean, deviation = self._costs_s.get(camera, (seconds, 0.0))
        deviation = _MEMORY * deviation + (1 - _MEMORY) * abs(seconds - mean)
        self._costs_s[camera] = _MEMORY * mean + (1 - _MEMORY) * seconds, deviation

    def _expected_s(self, camera: str) -> float:
        """Return what a frame of *camera* may take: as its last ones, or as those of others, and some more."""
        of_others = max(self._costs_s.values(), default=(0.0, 0.0))
        mean, deviation = self._costs_s.get(camera, of_others)
        return mean + _CAUTION * deviation

    @property
    def alive(self) -> bool:
        """All threads run that should."""
        return all(thread.is_alive() for thread in (*self._workers, self._labeller))
