"""Camera frames: pictures that were encoded, once, and wait to be sent."""

from __future__ import annotations

from dataclasses import dataclass

from edge_client.worth import Worth


@dataclass(frozen=True)
class CameraFrame:
    """One picture of the camera as a stream.

    Attributes:
        sequence: its number, unique for the camera for ever.
        stream: the bytes that may be sent.
        worth: what they are worth.
        captured: when the picture was taken, seconds since 1970; for people only.
        due: instant on the monotonic clock by which the server's answer should be finished; None for frames of the
            spool, which have no deadline any more.
        taken: instant on the monotonic clock at which the picture was taken.
    """

    sequence: int
    stream: bytes
    worth: Worth
    captured: float
    due: float | None
    taken: float = 0.0
