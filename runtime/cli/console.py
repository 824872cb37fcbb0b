"""What the verbs print: results on stdout, notes on stderr, times by stage."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def print_object(result: Mapping[str, Any]) -> None:
    """Print *result* as one JSON object on one line."""
    print(json.dumps(_rounded(result), allow_nan=False))


def report(text: str, output: Path) -> None:
    """Print what was written to *output*; on stderr if that is stdout itself, where it would be taken for a part."""
    try:
        itself = os.path.samestat(output.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):  # a stdout that is no file
        itself = False
    print(text, file=sys.stderr if itself else sys.stdout)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], text: Collection[int] = (0,)) -> None:
    """Print *rows* below *header* in columns; the columns *text* begin on the left, the others end on the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if column in text else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def note(text: str) -> None:
    """Print a remark."""
    print(f"cutoff: {text}", file=sys.stderr)


def warn(text: str) -> None:
    """Print a warning."""
    print(f"cutoff: warning: {text}", file=sys.stderr)


@contextmanager
def timed(stages_ms: dict[str, float], stage: str) -> Iterator[None]:
    """Note the milliseconds that the block takes as *stage*."""
    started = time.perf_counter()
    yield
    stages_ms[stage] = 1000 * (time.perf_counter() - started)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value
