"""Waiting, but not for ever, in asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Return what *work* returns; it is cancelled when *seconds* have passed.

    In the place of `asyncio.wait_for`, which before Python 3.12 loses a cancellation that comes at the moment when
    *work* is done: its task then goes on as if nobody had asked it to end.

    Raises:
        asyncio.TimeoutError: it took longer.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()  # of no effect if it is done
    if not done:
        raise asyncio.TimeoutError
    return task.result()
