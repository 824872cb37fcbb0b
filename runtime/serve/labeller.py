"""Answers and who hears of them; the labeller, which classifies finished pictures.

worker -> Outcome -> Labeller.hand_on -> label, where there is time -> Listener.answered
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from engines.costs import Costs
from runtime.decoder import Picture
from runtime.picture import Image

LOG = logging.getLogger("cutoff.serve")


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


class Labeller(threading.Thread):
    """Classifies finished pictures, one after the other, while workers are at the next ones."""

    def __init__(self, classify: Classify | None, clock: Callable[[], float]) -> None:
        super().__init__(name="cutoff-label", daemon=True)
        self.classify, self._clock = classify, clock
        self._costs = Costs()
        self._waiting: queue.SimpleQueue[tuple[Listener, float | None, Outcome] | None] = queue.SimpleQueue()

    @property
    def cost_s(self) -> float:
        """What a label may take."""
        return 0.0 if self.classify is None else self._costs.estimate_s("label", 1)

    def hand_on(self, listener: Listener, due: float | None, outcome: Outcome) -> None:
        """Answer *listener* with *outcome*, and a label if there is a picture and time until *due*."""
        if self.classify is None or outcome.picture is None or outcome.picture.image is None:
            listener.answered(outcome)
        else:
            self._waiting.put((listener, due, outcome))

    def stop(self) -> None:
        """End when what waits is done."""
        self._waiting.put(None)

    def run(self) -> None:
        """Work until `stop`."""
        while (one := self._waiting.get()) is not None:
            listener, due, outcome = one
            began = self._clock()
            assert self.classify is not None and outcome.picture is not None and outcome.picture.image is not None
            if due is None or began + self.cost_s < due:
                try:
                    label = self.classify(outcome.picture.image)
                    took_s = self._clock() - began
                    self._costs.record("label", 1, took_s)
                    outcome = replace(outcome, label=label, seconds=outcome.seconds + took_s)
                except Exception:
                    LOG.exception("the classifier has failed")
            if due is not None and outcome.status != "missed" and self._clock() > due:
                outcome = replace(outcome, status="missed")
            listener.answered(outcome)
