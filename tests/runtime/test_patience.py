"""Waiting that can be cancelled at any moment."""

from __future__ import annotations

import asyncio

import pytest

from runtime.patience import within


def test_it_returns_and_raises_what_the_work_does() -> None:
    """In time, nothing is different."""

    async def seven() -> int:
        await asyncio.sleep(0)
        return 7

    async def fails() -> None:
        raise KeyError("x")

    assert asyncio.run(within(10, seven())) == 7
    with pytest.raises(KeyError):
        asyncio.run(within(10, fails()))


def test_work_that_takes_too_long_is_cancelled() -> None:
    """And the caller is told."""
    ended = []

    async def slow() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(True)

    async def run() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await within(0.01, slow())
        await asyncio.sleep(0)
        assert ended == [True]

    asyncio.run(run())


@pytest.mark.parametrize("turns", range(6))
def test_no_cancellation_is_lost(turns: int) -> None:
    """However close to the end of the work it comes."""

    async def run() -> None:
        event = asyncio.Event()

        async def wait_and_go_on() -> None:
            await within(10, event.wait())
            await asyncio.sleep(10)

        task = asyncio.ensure_future(wait_and_go_on())
        await asyncio.sleep(0.01)
        event.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)

    asyncio.run(run())
