"""The thread that the store's writes and reads wait on, one after the other, in bounded memory.

Everything but the work itself runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from runtime.errors import OutputError

_JOB_BYTES = 4096  # that a write takes beside its stream while it waits


class Disk:
    """Work on the disk, in order."""

    def __init__(self, most_bytes: int) -> None:
        """Begin with nothing to do.

        Args:
            most_bytes: that may wait to be written; of a single write, however large, as much as it has.
        """
        self._thread, self._most_bytes = ThreadPoolExecutor(1, "cutoff-store"), most_bytes
        self.waiting_bytes = 0

    async def write(self, size: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Do *work*, which writes *size* bytes, behind what waits.

        Raises:
            OutputError: it failed; or the disk hangs, or is too slow for what comes, and no memory is left for it.
        """
        claim = size + _JOB_BYTES
        if self.waiting_bytes and self.waiting_bytes + claim > self._most_bytes:
            raise OutputError("the disk is too slow: streams and results that come now are not stored")
        self.waiting_bytes += claim
        try:
            await self._do(work, *arguments)
        finally:
            self.waiting_bytes -= claim

    async def read(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Return what *work* gives, behind what waits."""
        return await self._do(work, *arguments)

    async def _do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def close(self) -> None:
        """Do what waits, and end the thread."""
        self._thread.shutdown()
