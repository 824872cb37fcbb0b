"""Answers and who hears of them; the labeller, which classifies finished pictures.

worker -> Outcome -> Labeller.hand_on -> label, where there is time -> Listener.answered
"""

from __future__ import annotations

import itertools
import logging
import math
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from engines.costs import Costs
from runtime.decoder import Picture
from runtime.picture import Image

LOG = logging.getLogger("cutoff.serve")
_MEASURED = 32  # of so many labels that are left out, one is made after its answer, to see what it takes now


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


_Work = tuple[Listener | None, Outcome]  # nobody hears of a label that is only measured


class Labeller(threading.Thread):
    """Classifies finished pictures, one after the other, while workers are at the next ones.

    The most urgent comes first. So whoever has no time for a label is answered before anybody else gets one.
    """

    def __init__(self, classify: Classify | None, clock: Callable[[], float]) -> None:
        super().__init__(name="cutoff-label", daemon=True)
        self.classify, self._clock = classify, clock
        self._costs = Costs()
        self._number = itertools.count()  # of equals the earliest first; nothing else is compared
        self._waiting: queue.PriorityQueue[tuple[float, int, _Work | None]] = queue.PriorityQueue()
        self._left_out = itertools.count(1)  # labels

    @property
    def cost_s(self) -> float:
        """What a label may take."""
        return 0.0 if self.classify is None else self._costs.estimate_s("label", 1)

    def hand_on(self, listener: Listener, due: float | None, outcome: Outcome) -> None:
        """Answer *listener* with *outcome*, and a label if there is a picture and time until *due*."""
        if self.classify is None or outcome.picture is None or outcome.picture.image is None:
            listener.answered(outcome)
            return
        until = math.inf if due is None else due
        if self._clock() + self.cost_s < until:
            self._put(until, (listener, outcome))
        else:  # it must not wait for somebody else's label
            self._without_label(until, listener, outcome)

    def stop(self) -> None:
        """End when what waits is done."""
        self._put(math.inf, None)

    def run(self) -> None:
        """Work until `stop`."""
        while True:
            due, _, one = self._waiting.get()
            if one is None:
                return
            listener, outcome = one
            if listener is None:
                self._labelled(outcome)
            elif self._clock() + self.cost_s < due:
                self._answer(due, listener, self._labelled(outcome))
            else:
                self._without_label(due, listener, outcome)

    def _put(self, due: float, work: _Work | None) -> None:
        self._waiting.put((due, next(self._number), work))

    def _answer(self, due: float, listener: Listener, outcome: Outcome) -> None:
        if outcome.status != "missed" and self._clock() > due:
            outcome = replace(outcome, status="missed")
        listener.answered(outcome)

    def _without_label(self, due: float, listener: Listener, outcome: Outcome) -> None:
        """Answer at once; now and then make the label all the same, as what is never measured is believed for ever."""
        self._answer(due, listener, outcome)
        if next(self._left_out) % _MEASURED == 0 and self._waiting.empty():
            self._put(math.inf, (None, outcome))

    def _labelled(self, outcome: Outcome) -> Outcome:
        assert self.classify is not None and outcome.picture is not None and outcome.picture.image is not None
        began = self._clock()
        try:
            label = self.classify(outcome.picture.image)
        except Exception:
            LOG.exception("the classifier has failed")
            return outcome
        self._costs.record("label", 1, self._clock() - began)
        return replace(outcome, label=label)
