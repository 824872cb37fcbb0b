"""From pictures to camera frames, in a thread of their own: shape, pick a size that is in time, encode once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edge_client.budget import EncodeBudget
from edge_client.capture import Newest, Shot
from edge_client.frames import CameraFrame
from edge_client.metrics import Metrics
from edge_client.settings import EdgeSettings
from edge_client.shaping import scaled, shaped
from edge_client.worth import worth_of
from runtime.codec import Codec
from runtime.errors import CutoffError

_LOG = logging.getLogger(__name__)
_WARM_RUNS = 2
_MOST_IN_A_ROW = 10  # faults of libraries, after which a new process may do better


class Encoding:
    """The thread that encodes."""

    def __init__(
        self,
        codec: Codec,
        settings: EdgeSettings,
        newest: Newest,
        number: Callable[[], int],
        deliver: Callable[[CameraFrame], object],
        ended: Callable[[], object],
        metrics: Metrics,
        cv2: Any,
    ) -> None:
        """Prepare it.

        Args:
            codec: nobody else may use it from now on.
            number: gives the next sequence number.
            deliver: takes each camera frame; called in the thread.
            ended: called once no picture will come any more.
        """
        self._codec, self._settings, self._newest = codec, settings, newest
        self._number, self._deliver, self._ended, self._metrics, self._cv2 = number, deliver, ended, metrics, cv2
        self._budget = EncodeBudget()
        self._complaint = ""
        self.fault: Exception | None = None  # what ended it before its time
        self._thread = threading.Thread(target=self._run, name="encoding", daemon=True)

    def warm_up(self) -> None:
        """Encode a small picture for nothing: opening networks and loading the coder takes longer than any budget."""
        self._codec.model.hurry()
        for _ in range(_WARM_RUNS):
            self._codec.encode(np.full((64, 64) if self._settings.picture.grey else (64, 64, 3), 127, np.uint8))

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait until the last picture is encoded; true if that has happened."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        in_a_row = 0
        while in_a_row < _MOST_IN_A_ROW and (shot := self._newest.take()) is not None:
            try:
                self._one(shot)
                in_a_row = 0
            except CutoffError as fault:
                self._failed(fault)
            except Exception as fault:  # a library's: one may pass, many in a row do not
                in_a_row += 1
                self._failed(fault)
                self.fault = fault if in_a_row == _MOST_IN_A_ROW else None
        self._ended()

    def _failed(self, fault: Exception) -> None:
        self._metrics.pictures.labels("failed").inc()
        if str(fault) != self._complaint:  # a camera gives the same fault many times a second
            self._complaint = str(fault)
            _LOG.error("picture not encoded", extra={"fault": self._complaint})

    def _one(self, shot: Shot) -> None:
        settings = self._settings
        began = time.monotonic()
        left_s = shot.taken + settings.codec.budget_s - began if settings.codec.budget_s else float("inf")
        scale = self._budget.scale(began, left_s)
        if scale is None:
            self._metrics.pictures.labels("skipped").inc()
            return
        image = scaled(shaped(shot.image, settings.picture, self._cv2), scale, self._cv2)
        encoding = self._codec.encode(image)
        worth = worth_of(encoding.value, image)
        seconds = time.monotonic() - began
        self._budget.took(began, scale, seconds)
        self._metrics.encode_s.observe(seconds)
        self._metrics.encoded_bytes.inc(len(encoding.stream))
        self._metrics.pictures.labels("encoded" if scale == 1.0 else "encoded_smaller").inc()
        due = shot.taken + settings.sending.deadline_s
        self._deliver(CameraFrame(self._number(), encoding.stream, worth, shot.captured, due, shot.taken))
