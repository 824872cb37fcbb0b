"""How work is divided: units that are measured one by one, here or by workers elsewhere.

    Job.open -> Worker          in every process or actor, once
    Unit -> measured -> Outcome one of each, whoever does it

A worker gets a picture's bytes, which are checked against the hash that the run recorded, and gives rows.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runtime.errors import DataError, LimitExceeded, PictureError
from runtime.evaluate.runs.rows import UnitRow


@dataclass(frozen=True)
class Unit:
    """A picture to measure: its name in tables, its file, and the SHA-256 of it."""

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class Panel:
    """A picture for the report, kept beside the rows.

    Attributes:
        codec, cut: the row and column of the strip that it stands in.
        caption: what stands below it.
        webp: the picture, lossless.
    """

    codec: str
    cut: str
    caption: str
    webp: bytes


@dataclass(frozen=True)
class Findings:
    """What a worker has found: rows of the table, and panels of strips if it was asked for them."""

    rows: Sequence[UnitRow]
    panels: Sequence[Panel] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a unit.

    Attributes:
        unit: its name.
        findings: empty if it was skipped.
        fault: why it was skipped; None if it was not.
        seconds: what it took.
    """

    unit: str
    findings: Findings
    fault: str | None
    seconds: float


class Worker(Protocol):
    """Something that measures pictures: opened codecs, a classifier."""

    def measure(self, unit: Unit, content: bytes) -> Findings:
        """Measure the picture file *content*.

        Raises:
            PictureError, LimitExceeded: the picture is not fit for it, now or ever, and is to be skipped.
        """
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class Job(Protocol):
    """What every worker does; it travels to other processes and machines, so that it holds settings and bytes alone."""

    def open(self) -> Worker:
        """Open what measuring takes."""
        ...


def measured(worker: Worker, unit: Unit, content: bytes | None = None) -> Outcome:
    """Let *worker* measure *unit*; a picture that is broken or not fit is an outcome, too.

    Args:
        content: the file's bytes, where they were read elsewhere.

    Raises:
        DataError: the file is not what it was when the run began, or cannot be read any more.
    """
    started = time.perf_counter()
    try:
        content = read_unit(unit) if content is None else content
        if hashlib.sha256(content).hexdigest() != unit.sha256:
            raise DataError(f"{unit.path}: has changed since the run began")
        findings, fault = worker.measure(unit, content), None
    except (PictureError, LimitExceeded) as skipped:
        findings, fault = Findings(()), " ".join(str(skipped).split())
    return Outcome(unit.name, findings, fault, time.perf_counter() - started)


def read_unit(unit: Unit) -> bytes:
    """Return the bytes of the unit's file.

    Raises:
        DataError: it cannot be read. It could when the run began, so that this says nothing of the picture: the run
            ends, and the next one measures it.
    """
    try:
        return unit.path.read_bytes()
    except OSError as fault:
        raise DataError(
            f"{unit.path}: cannot be read any more: {fault.strerror}; what was measured is kept, and a rerun goes on"
        ) from fault
