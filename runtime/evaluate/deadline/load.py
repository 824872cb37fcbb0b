"""Load: processes that keep cores busy while something else is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event


@contextmanager
def busy(cores: int) -> Iterator[None]:
    """Keep *cores* cores busy with computations of equal priority, and begin once they are."""
    context = get_context("spawn")
    begun = [context.Event() for _ in range(cores)]
    processes = [context.Process(target=_burn, args=(event,), daemon=True) for event in begun]
    try:
        for process, event in zip(processes, begun, strict=True):
            process.start()
            event.wait()
        yield
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()


def _burn(begun: Event) -> None:
    block = bytes(1 << 16)
    digest = hashlib.sha256(block).digest()
    begun.set()
    while True:
        digest = hashlib.sha256(block + digest).digest()
