"""A server and cameras as real processes with the tiny bundle, and what lies on their disks."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes
from processes import Program

TINY = str(Path(__file__).parents[1] / "golden" / "tiny")
CAMERA = "gate"


@dataclass(frozen=True)
class Scale:
    """How long faults last: short in the suite; `make faults` sets the environment for long ones.

    Attributes:
        long: everything is tested, and not only what is quick.
        outage_s: of a link.
        connections: of a flood.
        frames: that have to wait in the spool before a fault ends, at least.
        patience_s: for what must happen in the end; only ever used up by a test that fails.
    """

    long: bool = "FAULTS_LONG" in os.environ
    outage_s: float = float(os.environ.get("FAULTS_OUTAGE_S", "1"))
    connections: int = int(os.environ.get("FAULTS_CONNECTIONS", "150"))
    frames: int = int(os.environ.get("FAULTS_FRAMES", "5"))
    patience_s: float = float(os.environ.get("FAULTS_PATIENCE_S", "60"))


SCALE = Scale()


@dataclass(frozen=True)
class Kept:
    """A row of the server's store: bytes of the whole stream, held of it, and in its file, if there is one."""

    size: int
    held: int
    file_bytes: int | None

    @property
    def whole(self) -> bool:
        """All of the stream is on the disk."""
        return self.held == self.size == self.file_bytes


class Plant:
    """Makes programs below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs: list[Program] = []

    def server(
        self, settings: Mapping[str, Any] | None = None, cameras: Sequence[str] = (CAMERA,), **options: Any
    ) -> Program:
        """Return a server, not started."""
        base = {"decode": {"bundle": TINY, "warm": ["96x80"]}}
        folder = self._place("server")
        return self._known(processes.server(folder, cameras, settings=_joined(base, settings or {}), **options))

    def camera(self, port: int, settings: Mapping[str, Any] | None = None, **options: Any) -> Program:
        """Return a camera with a spool that sends small pictures to a port, not started."""
        folder = self._place(CAMERA)
        base = {
            "server": {"backoff_s": 0.1, "backoff_most_s": 0.5, "connect_s": 3.0, "silence_s": 3.0},
            "source": {"width": 96, "height": 80, "fps": 8.0},
            "codec": {"bundle": TINY, "coder": "constriction", "budget_s": 0.0},
            "spool": {"file": str(folder / "spool.sqlite")},
        }
        return self._known(processes.camera(folder, CAMERA, port, settings=_joined(base, settings or {}), **options))

    def kill_all(self) -> None:
        """End every program."""
        for program in self.programs:
            program.kill()

    @property
    def spool(self) -> Path:
        """The camera's spool."""
        return self.folder / CAMERA / "spool.sqlite"

    def spooled(self) -> set[int]:
        """Return the sequences in the spool."""
        if not self.spool.exists():
            return set()
        return {sequence for (sequence,) in _rows(self.spool, "SELECT sequence FROM frames")}

    def kept(self) -> dict[int, Kept]:
        """Return what the server keeps of the camera, by sequence."""
        store = self.folder / "server" / "store"
        if not (store / "cutoff.sqlite").exists():
            return {}
        rows = _rows(
            store / "cutoff.sqlite", f"SELECT sequence, size, held, file FROM frames WHERE camera = '{CAMERA}'"
        )
        return {
            sequence: Kept(size, held, _size(store / "streams" / file) if file else None)
            for sequence, size, held, file in rows
        }

    def whole(self) -> set[int]:
        """Return the sequences that the server keeps all of."""
        return {sequence for sequence, kept in self.kept().items() if kept.whole}

    def statuses(self) -> dict[str, int]:
        """Return how many frames the server has answered in which way, last."""
        store = self.folder / "server" / "store" / "cutoff.sqlite"
        return dict(_rows(store, "SELECT status, COUNT(*) FROM frames WHERE status IS NOT NULL GROUP BY status"))

    def _place(self, name: str) -> Path:
        place = self.folder / name
        place.mkdir(exist_ok=True)
        return place

    def _known(self, program: Program) -> Program:
        self.programs.append(program)
        return program


def wait_until(condition: Callable[[], object], what: str, patience_s: float = SCALE.patience_s) -> None:
    """Wait until *condition* is true; AssertionError that says *what* was expected."""
    ends = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < ends, f"in {patience_s:g} s it has not come true that {what}"
        time.sleep(0.05)


def _rows(database: Path, query: str) -> list[Any]:
    # In a process of its own that may die at any time, a database is busy, or not made yet.
    for _ in range(100):
        try:
            with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as connection:
                return connection.execute(query).fetchall()
        except sqlite3.OperationalError:
            time.sleep(0.05)
    return []


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: {**one.get(key, {}), **other[key]} if isinstance(other.get(key), dict) else other.get(key, one.get(key))
        for key in {**one, **other}
    }
