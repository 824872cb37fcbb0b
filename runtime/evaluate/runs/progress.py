"""A bar with the remaining time on a terminal, a line now and then elsewhere; both on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runtime.cli.console import note

_LINE_EVERY_S = 30.0


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[], None]]:
    """Yield what notes that one more of *total* is done; *what* they are is said."""
    if not sys.stderr.isatty():
        yield _lines(total, what)
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ModuleNotFoundError:  # the report is the same without a bar
        yield _lines(total, what)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def _lines(total: int, what: str) -> Callable[[], None]:
    started = said = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal done, said
        done += 1
        now = time.monotonic()
        if now - said >= _LINE_EVERY_S and done < total:
            said = now
            note(f"{what}: {done} of {total}, about {(now - started) / done * (total - done) / 60:.0f} min left")

    return advance
