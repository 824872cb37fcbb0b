"""What the next byte of a stream is worth.

An encoder's `Value` is a curve of expected error over prefixes. What counts for sending is its lower convex hull: a
byte is worth what the best way to go on from it gains per byte, so that a dull stretch before a steep one is crossed.
"""

from __future__ import annotations

import itertools
import json
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from runtime.encoder import Value
from runtime.picture import Image


@dataclass(frozen=True)
class Worth:
    """The hull of a stream's curve.

    Attributes:
        first: bytes of the shortest prefix that gives a picture.
        starts: where each stretch of the hull begins, rising from 0; the last entry is where the hull ends.
        per_byte: squared error per sample (grey levels of 0..255 squared) that a byte of each stretch takes away,
            falling.
    """

    first: int
    starts: tuple[int, ...]
    per_byte: tuple[float, ...]

    def at(self, sent: int) -> float:
        """Return what the byte after the first *sent* is worth; 0.0 at the end."""
        stretch = bisect_right(self.starts, sent) - 1
        return self.per_byte[stretch] if stretch < len(self.per_byte) else 0.0

    def to_text(self) -> str:
        """Return what `from_text` reads: JSON."""
        return json.dumps([self.first, self.starts, self.per_byte], separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Worth:
        """Read what `to_text` wrote."""
        first, starts, per_byte = json.loads(text)
        return cls(int(first), tuple(map(int, starts)), tuple(map(float, per_byte)))


def worth_of(value: Value, image: Image) -> Worth:
    """Return what the stream of *image* is worth, byte for byte.

    Without a picture the error is taken to be that of an even grey in the picture's mean.
    """
    offsets, errors = value.offsets.tolist(), (value.squared_error / image.size).tolist()
    return hull(int(offsets[0]), [0, *offsets], [errors[0] + float(np.var(image)), *errors])


def hull(first: int, offsets: list[int], errors: list[float]) -> Worth:
    """Return the lower convex hull of *errors* over *offsets*, which rise; errors that rise count as staying."""
    corners: list[tuple[int, float]] = []
    for offset, error in zip(offsets, errors, strict=True):
        low = min(error, corners[-1][1]) if corners else error
        if corners and offset == corners[-1][0]:
            corners.pop()
        while len(corners) > 1 and _fall(corners[-1], (offset, low)) >= _fall(corners[-2], corners[-1]):
            corners.pop()
        corners.append((offset, low))
    falls = tuple(_fall(one, other) for one, other in itertools.pairwise(corners))
    return Worth(first, tuple(offset for offset, _ in corners), falls)


def _fall(one: tuple[int, float], other: tuple[int, float]) -> float:
    return (one[1] - other[1]) / (other[0] - one[0])
