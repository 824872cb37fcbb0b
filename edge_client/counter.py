"""Sequence numbers: unique for a camera for ever, and rising, whatever happens to its clock, disk or process.

The next free number stands in a file, always some numbers ahead, so that it is written seldom and a crash loses only
numbers. Numbers begin at the milliseconds since 1970 or at the file's number, whichever is larger: where the file is
gone the clock still leads past every number given, and where the clock went back the file does. Only a machine that
loses both at once can repeat a number.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from runtime.errors import ConfigurationError, OutputError
from runtime.protocol import MAX_SEQUENCE

_LOG = logging.getLogger(__name__)
_AHEAD = 1000


class Counter:
    """Gives out sequence numbers; holds a lock, so that no second process counts for the same camera."""

    def __init__(self, folder: Path, camera: str, clock: Callable[[], float] = time.time) -> None:
        """Begin where an earlier process ended.

        Raises:
            OutputError: *folder* cannot be made or written to.
            ConfigurationError: another process holds it.
        """
        self._path = folder / f"{camera}.sequence"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(folder / f"{camera}.lock", "w")  # noqa: SIM115 - open as long as the process counts
        except OSError as fault:
            raise OutputError(f"state: {folder} cannot be written to: {fault.strerror}") from fault
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            self._lock.close()
            raise ConfigurationError(
                f"camera {camera!r} is being sent by another process, which holds {folder}"
            ) from fault
        self._next = max(int(clock() * 1000), self._read(), 0)
        self._reserved = self._next

    def next(self) -> int:
        """Return a number that was never given out."""
        if self._next >= self._reserved:
            self._reserve()
        number, self._next = self._next, self._next + 1
        return number

    def close(self) -> None:
        """Let another process count."""
        self._lock.close()

    def _read(self) -> int:
        try:
            number = int(self._path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as fault:
            _LOG.error("sequence file unreadable: going on from the clock", extra={"fault": str(fault)})
            return 0
        return number if 0 <= number < MAX_SEQUENCE // 2 else 0

    def _reserve(self) -> None:
        """Write down that the next numbers are taken. A full disk stops no camera: there is still the clock."""
        self._reserved = self._next + _AHEAD
        part = self._path.with_suffix(".part")
        try:
            with open(part, "w", encoding="ascii") as file:
                file.write(f"{self._reserved}\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self._path)
        except OSError as fault:
            _LOG.error("sequence file not written", extra={"fault": str(fault)})
