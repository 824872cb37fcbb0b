"""Takes decisions from the bytes of an input; where they end, every decision is 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Source:
    """Bytes that are used up from the front."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def number(self, size: int = 1) -> int:
        """Return the next *size* bytes as a number."""
        return int.from_bytes(self.take(size), "big")

    def choice(self, options: Sequence[T]) -> T:
        """Return one of *options*."""
        return options[self.number(2 if len(options) > 256 else 1) % len(options)]

    def take(self, size: int) -> bytes:
        """Return the next *size* bytes, or as many as there are."""
        taken = self._data[self._position : self._position + size]
        self._position += len(taken)
        return taken

    def rest(self) -> bytes:
        """Return all bytes that are left."""
        return self.take(len(self._data))

    def __bool__(self) -> bool:
        return self._position < len(self._data)
