"""Frames that must not be lost, in an SQLite database until the server has stored them.

One thread uses it. What it cannot do, as on a full disk, is an OutputError, after which it can be used further. A
database that is damaged is set aside under another name, for people, and a new one begun.

A spool is one camera's: its name stands in the database, and a lock lies beside it. Another camera would send what it
finds there under its own name, and forget it.

Age is the time that the spool was in use since a frame came: a clock that jumps makes nothing old.
"""

from __future__ import annotations

import fcntl
import logging
import sqlite3
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from edge_client.frames import CameraFrame
from edge_client.worth import Worth
from runtime.errors import ConfigurationError, OutputError

_LOG = logging.getLogger(__name__)
_VERSION = 1
_TABLES = (
    """CREATE TABLE frames (
        sequence INTEGER PRIMARY KEY,
        captured REAL NOT NULL,
        added REAL NOT NULL,    -- seconds that the spool had been in use
        size INTEGER NOT NULL,  -- of the stream
        held INTEGER NOT NULL,  -- bytes that the server has stored
        next REAL NOT NULL,     -- what the byte behind them is worth
        curve TEXT NOT NULL,
        stream BLOB NOT NULL
    )""",
    "CREATE INDEX by_worth ON frames (next DESC, sequence DESC)",
    "CREATE TABLE used (seconds REAL NOT NULL)",
    "INSERT INTO used VALUES (0)",
    f"PRAGMA user_version = {_VERSION}",
)
_ADDED_LATER = (
    # Ages and sizes apart from the streams: what is too old, and how much there is, is found without reading those.
    "CREATE INDEX IF NOT EXISTS by_age ON frames (added, size)",
    "CREATE TABLE IF NOT EXISTS owner (camera TEXT NOT NULL)",
)
_SIDE_FILES = ("", "-wal", "-shm")

T = TypeVar("T")


@dataclass(frozen=True)
class Spooled:
    """A frame of the spool, and how many of its bytes the server has stored."""

    frame: CameraFrame
    held: int


class Spool:
    """The frames that wait, at most *most_bytes* of streams, none older than *most_s* seconds of use."""

    def __init__(
        self,
        path: Path,
        camera: str,
        most_bytes: int,
        most_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the database at *path*, or begin one; one that has no name in it is *camera*'s from now on.

        Raises:
            OutputError: neither is possible.
            ConfigurationError: it is another camera's, or another process holds it.
        """
        self._path, self._camera = path, camera
        self._most_bytes, self._most_s, self._clock = most_bytes, most_s, clock
        self._opened_at, self._used_before = clock(), 0.0
        self._database: sqlite3.Connection | None = None
        self.frames = 0
        self.size_bytes = 0
        self.evicted = 0
        self.set_aside = 0
        self._lock = _locked(path)
        try:
            self._use(lambda database: None)
        except BaseException:
            self._lock.close()
            raise

    def add(self, frame: CameraFrame, held: int = 0) -> None:
        """Keep *frame*, of which the server has stored *held* bytes; frames of least worth give way to the caps.

        Raises:
            OutputError: the frame could not be kept.
        """
        size = len(frame.stream)
        if size > self._most_bytes:
            raise OutputError(f"spool: a stream of {size} bytes exceeds spool.most_bytes, {self._most_bytes}")

        def insert(database: sqlite3.Connection) -> None:
            self._expire(database)
            self._make_room(database, size)
            database.execute(
                "INSERT OR IGNORE INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    frame.sequence,
                    frame.captured,
                    self._used(),
                    size,
                    held,
                    frame.worth.at(held),
                    frame.worth.to_text(),
                    frame.stream,
                ),
            )

        self._use(insert)

    def best(self, count: int, without: Collection[int] = ()) -> list[Spooled]:
        """Return the *count* frames whose next byte is worth most, of equal ones the newest; none of *without*."""

        def select(database: sqlite3.Connection) -> list[Spooled]:
            rows = database.execute("SELECT sequence FROM frames ORDER BY next DESC, sequence DESC")
            chosen = []
            for (sequence,) in rows:
                if sequence not in without:
                    chosen.append(sequence)
                if len(chosen) == count:
                    break
            rows.close()
            return [self._read(database, sequence) for sequence in chosen]

        return self._use(select) if count > 0 else []

    def stored(self, sequence: int, held: int, *, done: bool) -> None:
        """Note that the server has stored *held* bytes of a frame; forget the frame if that is all it should get."""

        def update(database: sqlite3.Connection) -> None:
            if done:
                database.execute("DELETE FROM frames WHERE sequence = ?", (sequence,))
                return
            row = database.execute("SELECT held, curve FROM frames WHERE sequence = ?", (sequence,)).fetchone()
            if row is not None and held > row[0]:
                worth = Worth.from_text(row[1]).at(held)
                database.execute("UPDATE frames SET held = ?, next = ? WHERE sequence = ?", (held, worth, sequence))

        self._use(update)

    def tend(self) -> None:
        """Drop what is too old, and note how long the spool has been in use."""
        self._use(self._expire)

    def close(self) -> None:
        """Close the database, and let another process have it."""
        if self._database is not None:
            try:
                self._use(self._expire)
            except OutputError as fault:
                _LOG.error("spool not closed in order", extra={"fault": str(fault)})
            self._disconnect()
        self._lock.close()

    def _use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do *work* in one transaction; where the database proves to be damaged, with a new one."""
        for attempt in range(2):
            try:
                return self._transaction(work)
            except OutputError:
                raise
            except (sqlite3.Error, OSError, ValueError, TypeError, KeyError) as fault:
                # Everything that SQLite can go on after is an OperationalError, like a disk that is full.
                passing = isinstance(fault, (sqlite3.OperationalError, OSError)) and not _damaged(fault)
                if passing or attempt:
                    raise OutputError(f"spool: {self._path}: {fault}") from fault
                self._put_aside(fault)
        raise AssertionError("two attempts, and each returns or raises")

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        database = self._connect()
        database.execute("BEGIN IMMEDIATE")
        try:
            result = work(database)
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        finally:
            self._count(database)
        return result

    def _connect(self) -> sqlite3.Connection:
        if self._database is None:
            database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(database)
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def _prepare(self, database: sqlite3.Connection) -> None:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")  # a frame that was added survives a loss of power
        database.execute("PRAGMA journal_size_limit = 4000000")
        database.execute("PRAGMA cache_size = -500")  # KB in memory; a frame is written once, and read once
        database.execute("BEGIN IMMEDIATE")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        for statement in _TABLES if version == 0 else ():
            database.execute(statement)
        if version in (0, _VERSION):
            for statement in _ADDED_LATER:
                database.execute(statement)
            self._claim(database)
        database.execute("COMMIT")
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"version {version} of a spool, not {_VERSION}")
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        (self._used_before,) = database.execute("SELECT seconds FROM used").fetchone()
        self._opened_at = self._clock()
        self._count(database)

    def _claim(self, database: sqlite3.Connection) -> None:
        database.execute("INSERT INTO owner SELECT ? WHERE NOT EXISTS (SELECT * FROM owner)", (self._camera,))
        (owner,) = database.execute("SELECT camera FROM owner").fetchone()
        if owner != self._camera:
            raise ConfigurationError(
                f"spool.file: {self._path} is the spool of camera {owner!r}, not of {self._camera!r}; each has its own"
            )

    def _put_aside(self, fault: Exception) -> None:
        self._disconnect()
        self.set_aside += 1
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.damaged-{number}")).exists():
            number += 1
        _LOG.error("spool damaged: set aside, a new one begins", extra={"fault": str(fault), "aside": str(aside)})
        try:
            for end in _SIDE_FILES:
                file = Path(f"{self._path}{end}")
                if file.exists():
                    file.rename(f"{aside}{end}")
        except OSError as refusal:
            raise OutputError(f"spool: {self._path} is damaged and cannot be set aside: {refusal}") from refusal

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _used(self) -> float:
        return self._used_before + self._clock() - self._opened_at

    def _expire(self, database: sqlite3.Connection) -> None:
        database.execute("UPDATE used SET seconds = ?", (self._used(),))
        dropped = database.execute("DELETE FROM frames WHERE added < ?", (self._used() - self._most_s,)).rowcount
        self._dropped(dropped, "too old")

    def _make_room(self, database: sqlite3.Connection, size: int) -> None:
        (total,) = database.execute("SELECT COALESCE(SUM(size), 0) FROM frames").fetchone()
        dropped = 0
        while total + size > self._most_bytes:
            row = database.execute("SELECT sequence, size FROM frames ORDER BY next, sequence LIMIT 1").fetchone()
            database.execute("DELETE FROM frames WHERE sequence = ?", (row[0],))
            total -= row[1]
            dropped += 1
        self._dropped(dropped, "no room")

    def _dropped(self, count: int, why: str) -> None:
        if count:
            self.evicted += count
            _LOG.warning("spool dropped frames", extra={"frames": count, "why": why})

    def _count(self, database: sqlite3.Connection) -> None:
        self.frames, self.size_bytes = database.execute(
            "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM frames"
        ).fetchone()

    def _read(self, database: sqlite3.Connection, sequence: int) -> Spooled:
        row: Any = database.execute(
            "SELECT captured, held, curve, stream FROM frames WHERE sequence = ?", (sequence,)
        ).fetchone()
        captured, held, curve, stream = row
        return Spooled(CameraFrame(sequence, bytes(stream), Worth.from_text(curve), captured, None), held)


def _locked(path: Path) -> TextIO:
    """Return the lock file beside *path*, which this process holds until it closes it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(f"{path}.lock", "w")  # noqa: SIM115 - open as long as the spool
    except OSError as fault:
        raise OutputError(f"spool: {path}: {fault}") from fault
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        lock.close()
        raise ConfigurationError(f"spool.file: {path} is held by another process; each camera has its own") from fault
    return lock


def _damaged(fault: Exception) -> bool:
    """True of an OperationalError that says that the file is not what it was."""
    return any(sign in str(fault) for sign in ("malformed", "no such table", "no such column", "not a database"))
