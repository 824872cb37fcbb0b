"""Tasks of the event loop that run side by side and end together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any

_AGAIN_S = 0.5


async def until_first(*waiting: Awaitable[object]) -> None:
    """Run all until the first ends, end the others, and raise what the first raised."""
    tasks = [asyncio.ensure_future(one) for one in waiting]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(tasks)
    for task in done:
        task.result()


async def end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel *tasks* until they have ended: before Python 3.12, `asyncio.wait_for` may swallow a cancellation."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_S)
