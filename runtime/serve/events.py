"""What happens, for whoever looks: cameras come and go, previews sharpen, results are there.

Events are published on the event loop. Each subscriber has a bounded queue of its own; one that is slow loses the
oldest, so that nobody's slowness costs the server memory or time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from runtime.protocol import Result

_KEPT = 64  # events that wait for one subscriber


@dataclass(frozen=True)
class CameraChanged:
    """A camera connected, or its connection is lost; *at* is seconds since 1970."""

    camera: str
    connected: bool
    at: float


@dataclass(frozen=True)
class FrameProgress:
    """A preview of a frame that is still arriving.

    Attributes:
        camera, sequence: the frame.
        used, size: bytes that the preview rests on, and of the whole stream.
        jpeg: the preview as a small JPEG file.
        label, confidence: of the classifier, if it looked.
    """

    camera: str
    sequence: int
    used: int
    size: int
    jpeg: bytes
    label: str | None
    confidence: float | None


@dataclass(frozen=True)
class FrameAnswered:
    """A frame's result.

    Attributes:
        camera: whose.
        result: as it was sent.
        size, held: bytes of the whole stream, and of those how many came.
        received: seconds since 1970.
        jpeg: the picture, made small; None if there is none.
    """

    camera: str
    result: Result
    size: int
    held: int
    received: float
    jpeg: bytes | None


Event = CameraChanged | FrameProgress | FrameAnswered


class Subscription:
    """Events that wait for one subscriber."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque(maxlen=_KEPT)
        self._some = asyncio.Event()
        self.lost = 0  # events that were dropped

    async def next(self) -> Event:
        """Return the oldest event that waits, or the next one."""
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        return self._waiting.popleft()

    def put(self, event: Event) -> None:
        """Add *event*; the oldest is lost if too many wait."""
        self.lost += len(self._waiting) == _KEPT
        self._waiting.append(event)
        self._some.set()


class Events:
    """The bus.

    Attributes:
        presence: the last change of each camera that has connected since the server began.
    """

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self.presence: dict[str, CameraChanged] = {}

    @property
    def watched(self) -> bool:
        """Somebody has subscribed. Any thread may ask."""
        return bool(self._subscriptions)

    def publish(self, event: Event) -> None:
        """Give *event* to all subscribers; on the event loop only."""
        if isinstance(event, CameraChanged):
            self.presence[event.camera] = event
        for subscription in self._subscriptions:
            subscription.put(event)

    @contextmanager
    def subscribed(self) -> Iterator[Subscription]:
        """Subscribe for the time of the block."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
