"""What the server keeps: a row for every camera frame in SQLite, its stream in a file.

    keep: bytes -> file, whole, on the disk -> row that names it, committed -> the former file removed
    note: what was made of it -> row
    retain: streams that are old, or too many, are trimmed; when that is not enough, deleted

A file is written under a new name before the row names it, so a row never speaks of bytes that are not there, whenever
the process is killed. Files that no row names are removed when the store is opened; what another process is writing
must not be taken for such, so a lock on the folder lets one process at a time open it.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from runtime.errors import CutoffError, OutputError
from runtime.protocol import Result
from runtime.serve.locks import hold
from runtime.serve.settings import StoreSettings
from runtime.stream import Limits, trim
from runtime.whole_files import write_whole

_DAY = 86_400.0
_STREAMS = "streams"
_DATABASE = "cutoff.sqlite"
_LOCK = "cutoff.lock"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS frames (
    camera      TEXT NOT NULL,
    sequence    INTEGER NOT NULL,
    captured    REAL NOT NULL,
    received    REAL NOT NULL,
    size        INTEGER NOT NULL,
    held        INTEGER NOT NULL DEFAULT 0,
    file        TEXT,
    file_bytes  INTEGER NOT NULL DEFAULT 0,
    trimmed     INTEGER NOT NULL DEFAULT 0,
    status      TEXT,
    used        INTEGER,
    steps       REAL,
    steps_total INTEGER,
    margin_ms   REAL,
    label       TEXT,
    confidence  REAL,
    PRIMARY KEY (camera, sequence)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_age ON frames (received);
CREATE INDEX IF NOT EXISTS by_trimming ON frames (trimmed, received);
"""
# From name to name, as long as there is a next one: a million frames are of few cameras.
_CAMERAS = """
WITH RECURSIVE found (name) AS (
    SELECT MIN(camera) FROM frames
    UNION ALL
    SELECT (SELECT MIN(camera) FROM frames WHERE camera > name) FROM found WHERE name IS NOT NULL
)
SELECT name FROM found WHERE name IS NOT NULL
"""
_VERSION = 1


@dataclass(frozen=True)
class StoredFrame:
    """A row: a camera frame and what was made of it.

    Attributes:
        camera, sequence: its name.
        captured: when the picture was taken, by the camera's clock, seconds since 1970.
        received: when bytes of it were first kept, seconds since 1970 by a clock that does not jump.
        size: bytes of the whole stream.
        held: bytes of it, from its first, that came; retention may have taken some since.
        file: of the stream, below the store's folder; None if nothing is kept.
        file_bytes: its length.
        trimmed: retention has made the stream smaller.
        result: what was answered last; None if nothing was, and then `stored` in it is True.
    """

    camera: str
    sequence: int
    captured: float
    received: float
    size: int
    held: int
    file: str | None
    file_bytes: int
    trimmed: bool
    result: Result | None


class Store:
    """One folder. Any thread may call; writes wait for each other, reads wait for nobody."""

    def __init__(self, settings: StoreSettings, limits: Limits = Limits()) -> None:
        """Open the store, or make it.

        Args:
            limits: what streams may claim; those that claim more are kept, but not trimmed.

        Raises:
            OutputError: the folder or the database cannot be opened, or another process has it open.
        """
        self._settings, self._limits, self._folder = settings, limits, settings.folder
        self._writing, self._reading = threading.Lock(), threading.Lock()
        with ExitStack() as opened:  # closed again if anything fails
            try:
                (self._folder / _STREAMS).mkdir(parents=True, exist_ok=True)
                lock = hold(self._folder / _LOCK)
                if lock is None:
                    raise OutputError(f"{self._folder}: another server has this store open")
                opened.callback(os.close, lock)
                self._writer = opened.enter_context(closing(self._connect()))
                self._reader = opened.enter_context(closing(self._connect()))
                self._make_tables()
            except (OSError, sqlite3.Error) as fault:
                raise OutputError(f"{self._folder}: the store cannot be opened: {fault}") from fault
            self._bytes = self._one("SELECT COALESCE(SUM(file_bytes), 0) FROM frames")
            # Ages must not jump with the clock of the day: a year too far, and everything would be deleted.
            newest = self._one("SELECT COALESCE(MAX(received), 0) FROM frames")
            self._epoch = max(time.time(), newest + 1) - time.monotonic()
            self._remove_strays()
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close the database and let others open the store; nothing happens if it is closed already."""
        with self._writing, self._reading:
            self._opened.close()

    @property
    def stream_bytes(self) -> int:
        """Bytes of all streams."""
        return self._bytes

    # Writing.

    def keep(self, camera: str, sequence: int, size: int, captured: float, data: bytes) -> None:
        """Keep *data*, the first bytes of a stream of *size*; when this returns they are on the disk.

        Nothing changes if as many are kept already.

        Raises:
            OutputError: they cannot be written; what was kept before still is.
        """
        with self._writing, self._faults("keep a stream"):
            row = self._writer.execute(
                "SELECT held, file, file_bytes FROM frames WHERE camera = ? AND sequence = ?", (camera, sequence)
            ).fetchone()
            held, former, former_bytes = row or (-1, None, 0)
            if former is not None and not (self._folder / _STREAMS / former).exists():
                held = -1  # the folder was put back from an older copy than the database
            if len(data) <= held:
                return
            file = f"{camera}/{sequence}-{len(data)}.cut" if data else None
            if file is not None:
                self._write(file, data)
            with self._writer:
                self._writer.execute(
                    "INSERT INTO frames (camera, sequence, captured, received, size, held, file, file_bytes) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (camera, sequence) DO UPDATE SET "
                    "held = excluded.held, file = excluded.file, file_bytes = excluded.file_bytes, trimmed = 0",
                    (camera, sequence, captured, self._now(), size, len(data), file, len(data)),
                )
            self._bytes += len(data) - former_bytes
            if former != file:
                self._remove(former)

    def note(self, camera: str, result: Result) -> None:
        """Note what was answered of a frame that is kept.

        Raises:
            OutputError: it cannot be written.
        """
        with self._writing, self._faults("note a result"), self._writer:
            self._writer.execute(
                "UPDATE frames SET status = ?, used = ?, steps = ?, steps_total = ?, margin_ms = ?, label = ?, "
                "confidence = ? WHERE camera = ? AND sequence = ?",
                (
                    result.status,
                    result.bytes,
                    result.steps,
                    result.steps_total,
                    result.margin_ms,
                    result.label,
                    result.confidence,
                    camera,
                    result.sequence,
                ),
            )

    def retain(self, now: float | None = None) -> tuple[int, int]:
        """Trim and delete what is old or too much at *now*, seconds since 1970; return how many of each.

        Raises:
            OutputError: a smaller stream cannot be written, and not because the disk is full: then it is deleted.
        """
        now, settings = self._now() if now is None else now, self._settings
        trimmed = deleted = 0
        while (frame := self._oldest(now - settings.days * _DAY, trimmed=None)) is not None:
            self._delete(frame)
            deleted += 1
        while (frame := self._oldest(now - settings.trim_days * _DAY, trimmed=False)) is not None:
            smaller = self._trim(frame)
            trimmed, deleted = trimmed + smaller, deleted + (not smaller)
        while self._bytes > settings.bytes:
            if (frame := self._oldest(now, trimmed=False)) is not None:
                smaller = self._trim(frame)
                trimmed, deleted = trimmed + smaller, deleted + (not smaller)
            elif (frame := self._oldest(now, trimmed=None)) is not None:
                self._delete(frame)
                deleted += 1
            else:
                break
        return trimmed, deleted

    # Reading.

    def frame(self, camera: str, sequence: int) -> StoredFrame | None:
        """Return a frame's row; None if there is none."""
        rows = self._rows("WHERE camera = ? AND sequence = ?", camera, sequence)
        return rows[0] if rows else None

    def frames(self, camera: str, limit: int = 50, before: int | None = None) -> list[StoredFrame]:
        """Return the newest frames of *camera*, at most *limit*, newest first; *before*: sequences below it."""
        if before is None:
            return self._rows("WHERE camera = ? ORDER BY sequence DESC LIMIT ?", camera, limit)
        return self._rows("WHERE camera = ? AND sequence < ? ORDER BY sequence DESC LIMIT ?", camera, before, limit)

    def neighbours(self, camera: str, sequence: int) -> tuple[int | None, int | None]:
        """Return the sequences of the frames of *camera* before and after one; None where there is none."""
        with self._reading, self._faults("read"):
            (pair,) = self._reader.execute(
                "SELECT (SELECT MAX(sequence) FROM frames WHERE camera = ?1 AND sequence < ?2), "
                "(SELECT MIN(sequence) FROM frames WHERE camera = ?1 AND sequence > ?2)",
                (camera, sequence),
            )
        return pair[0], pair[1]

    def cameras(self) -> list[str]:
        """Return the names of all cameras of which anything is kept."""
        with self._reading, self._faults("read"):
            return [name for (name,) in self._reader.execute(_CAMERAS)]

    def newest(self, camera: str) -> int | None:
        """Return the largest sequence of *camera*; None if nothing of it is kept."""
        rows = self.frames(camera, 1)
        return rows[0].sequence if rows else None

    def stream(self, frame: StoredFrame) -> bytes | None:
        """Return the bytes that are kept of *frame*; None if there are none any more."""
        for _ in range(2):  # a second time if retention came between
            if frame.file is None:
                return None
            try:
                return (self._folder / _STREAMS / frame.file).read_bytes()
            except FileNotFoundError:
                again = self.frame(frame.camera, frame.sequence)
                if again is None or again.file == frame.file:
                    return None
                frame = again
            except OSError as fault:
                raise OutputError(f"{frame.file}: cannot be read: {fault.strerror}") from fault
        return None

    # Inside.

    def _now(self) -> float:
        """Return seconds since 1970, as the clock said when the store was opened and time has passed since."""
        return self._epoch + time.monotonic()

    def _make_tables(self) -> None:
        """Make the tables of a new store; OutputError if a later program has made them."""
        with self._writer:
            self._writer.executescript(_SCHEMA)
            (version,) = self._writer.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise OutputError(f"{self._folder}: a store of version {version}; this program knows {_VERSION}")
            self._writer.execute(f"PRAGMA user_version = {_VERSION}")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._folder / _DATABASE, check_same_thread=False, timeout=10.0)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
        return connection

    @contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as fault:
            raise OutputError(f"{self._folder}: the store cannot {doing}: {fault}") from fault

    def _rows(self, where: str, *values: object) -> list[StoredFrame]:
        with self._reading, self._faults("read"):
            found = self._reader.execute(
                "SELECT camera, sequence, captured, received, size, held, file, file_bytes, trimmed, "
                f"status, used, steps, steps_total, margin_ms, label, confidence FROM frames {where}",
                values,
            ).fetchall()
        return [_stored(*row) for row in found]

    def _one(self, query: str) -> int:
        with self._reading, self._faults("read"):
            (value,) = self._reader.execute(query).fetchone()
        return int(value)

    def _oldest(self, before: float, *, trimmed: bool | None) -> StoredFrame | None:
        which = "" if trimmed is None else f"AND trimmed = {int(trimmed)} "
        rows = self._rows(f"WHERE received < ? {which}ORDER BY received LIMIT 1", before)
        return rows[0] if rows else None

    def _trim(self, frame: StoredFrame) -> bool:
        """Make the stream of *frame* smaller; one that cannot be, counts as trimmed.

        A full disk has no room for the smaller one beside it: False, and the frame is deleted, which makes room.
        """
        try:
            self._make_smaller(frame)
        except OutputError as fault:
            if not _is_full(fault.__cause__):
                raise
            self._delete(frame)
            return False
        return True

    def _make_smaller(self, frame: StoredFrame) -> None:
        with self._writing, self._faults("trim a stream"):
            frame = self.frame(frame.camera, frame.sequence) or frame  # it may have grown since it was found
            smaller = self._smaller(frame)
            file, size = frame.file, frame.file_bytes
            if smaller is not None:
                file, size = f"{frame.camera}/{frame.sequence}-{len(smaller)}-trimmed.cut", len(smaller)
                self._write(file, smaller)
            with self._writer:
                self._writer.execute(
                    "UPDATE frames SET file = ?, file_bytes = ?, trimmed = 1 WHERE camera = ? AND sequence = ?",
                    (file, size, frame.camera, frame.sequence),
                )
            self._bytes += size - frame.file_bytes
            if file != frame.file:
                self._remove(frame.file)

    def _smaller(self, frame: StoredFrame) -> bytes | None:
        """Return the stream of *frame*, trimmed; None if it is short already, cannot be read, or is no stream."""
        most = self._settings.trimmed_bytes
        try:
            data = self.stream(frame)
            if data is None or len(data) <= most:
                return None
            smaller = trim(data, most, self._limits)
        except CutoffError:
            return None
        return smaller if len(smaller) < len(data) else None

    def _delete(self, frame: StoredFrame) -> None:
        with self._writing, self._faults("delete a stream"):
            frame = self.frame(frame.camera, frame.sequence) or frame
            with self._writer:
                self._writer.execute(
                    "DELETE FROM frames WHERE camera = ? AND sequence = ?", (frame.camera, frame.sequence)
                )
            self._bytes -= frame.file_bytes
            self._remove(frame.file)

    def _write(self, file: str, data: bytes) -> None:
        path = self._folder / _STREAMS / file
        path.parent.mkdir(exist_ok=True)
        write_whole(path, data, durable=True)

    def _remove(self, file: str | None) -> None:
        if file is not None:
            (self._folder / _STREAMS / file).unlink(missing_ok=True)

    def _remove_strays(self) -> None:
        """Remove files that no row names: a process was killed between file and row."""
        with self._reading, self._faults("read"):
            named = {file for (file,) in self._reader.execute("SELECT file FROM frames WHERE file IS NOT NULL")}
        with self._faults("remove what no row names"):
            for folder in os.scandir(self._folder / _STREAMS):
                if folder.is_dir(follow_symlinks=False):
                    for entry in os.scandir(folder.path):
                        if f"{folder.name}/{entry.name}" not in named:
                            os.unlink(entry.path)


def _is_full(fault: BaseException | None) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT)
    return isinstance(fault, OSError) and fault.errno in full


def _stored(
    camera: str,
    sequence: int,
    captured: float,
    received: float,
    size: int,
    held: int,
    file: str | None,
    file_bytes: int,
    trimmed: int,
    status: str | None,
    used: int,
    steps: float,
    steps_total: int,
    margin_ms: float | None,
    label: str | None,
    confidence: float | None,
) -> StoredFrame:
    result = None
    if status is not None:
        result = Result(sequence, status, used, steps, steps_total, margin_ms, True, label, confidence)
    return StoredFrame(camera, sequence, captured, received, size, held, file, file_bytes, bool(trimmed), result)
