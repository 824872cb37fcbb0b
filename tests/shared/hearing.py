"""A listener of the decode desk."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from runtime.serve.labeller import Label, Outcome


class Heard:
    """A listener that writes down what it hears."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.outcomes: list[Outcome] = []
        self.labels: list[Label | None] = []
        self.done = threading.Event()

    def finishing(self) -> None:
        self.calls.append("finishing")

    def looked(self, image: NDArray[np.uint8], label: Label | None, size: int) -> None:
        self.calls.append("looked")
        self.labels.append(label)

    def enough(self) -> None:
        self.calls.append("enough")

    def answered(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.done.set()
