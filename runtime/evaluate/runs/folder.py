"""A run's folder: what it measures, and every result as it comes; a rerun continues where one ended.

    run.json      what the run is: report, settings, codecs, hashes of inputs, software, machine; how it is
                  shown, and the commands given
    units.csv     one line for each unit that is done or was skipped
    rows.csv      the rows of those units
    panels.csv    pictures for the report, in panels/

A unit's rows are written before its line in units.csv: what has no line there is dropped, and measured again. Only the
process that holds the folder's lock writes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from runtime.errors import DataError, OutputError, UsageError
from runtime.evaluate.runs.rows import ERRORS, Row, UnitRow, header_of, lines_of, read_rows
from runtime.evaluate.runs.work import Outcome
from runtime.whole_files import write_whole

R = TypeVar("R", bound=UnitRow)
A = TypeVar("A", bound=Row)

RUN_FILE, UNITS_FILE, ROWS_FILE, PANELS_FILE = "run.json", "units.csv", "rows.csv", "panels.csv"
COMMANDS, VIEW = "commands", "view"


@dataclass(frozen=True)
class UnitRecord:
    """A line of units.csv: how many rows and panels the unit has, what it took, and why it was skipped if it was."""

    unit: str
    rows: int
    panels: int
    seconds: float
    fault: str | None


@dataclass(frozen=True)
class PanelRecord:
    """A line of panels.csv: a panel's place in its strip, its caption, and its file in panels/."""

    unit: str
    codec: str
    cut: str
    caption: str
    file: str


class RunFolder(Generic[R]):
    """A run's folder, open for writing. Use it as a context manager."""

    def __init__(
        self, path: Path, kind: type[R], run: Mapping[str, Any], view: Mapping[str, Any], command: Mapping[str, Any]
    ) -> None:
        """Begin the *run* in *path*, or go on with it.

        Args:
            kind: of the rows.
            run: what the run is, plain values; a folder of another is refused.
            view: how it is shown; replaces what was there.
            command: what was called now; kept in a list.

        Raises:
            UsageError: the folder holds another run, or something else.
            OutputError: it cannot be written, or another process is writing to it.
            DataError: a file in it is not as it should be.
        """
        self.path, self._kind = path, kind
        self._stack = ExitStack()
        with _translated(path):
            path.mkdir(parents=True, exist_ok=True)
            self._lock()
            try:
                self._begin(json.loads(json.dumps(run)), view, command)
                self._done = self._whole_units()
                self._units, self._rows, self._panels = (
                    self._stack.enter_context((path / name).open("ab", buffering=0))  # see `_append`
                    for name in (UNITS_FILE, ROWS_FILE, PANELS_FILE)
                )
            except BaseException:
                self._stack.close()
                raise

    @property
    def done(self) -> frozenset[str]:
        """Units that need not be measured again."""
        return frozenset(self._done)

    def add(self, outcome: Outcome) -> None:
        """Keep *outcome*.

        Raises:
            OutputError: the folder cannot be written.
        """
        assert outcome.unit not in self._done
        with _translated(self.path):
            panels = [
                PanelRecord(outcome.unit, panel.codec, panel.cut, panel.caption, self._write_panel(panel.webp))
                for panel in outcome.findings.panels
            ]
            _append(self._panels, panels)
            _append(self._rows, outcome.findings.rows)
            counts = len(outcome.findings.rows), len(panels)
            _append(self._units, [UnitRecord(outcome.unit, *counts, outcome.seconds, outcome.fault)])
        self._done.add(outcome.unit)

    def keep(self, name: str, content: bytes) -> None:
        """Keep a file that the report needs as *name*, a path below the folder; OutputError if it cannot be written."""
        with _translated(self.path):
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / name, content)

    def close(self) -> None:
        """Let others write."""
        self._stack.close()

    def __enter__(self) -> RunFolder[R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        file = self._stack.enter_context((self.path / ".lock").open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            self._stack.close()
            raise OutputError(f"{self.path}: another process is writing to this run") from fault

    def _begin(self, run: dict[str, Any], view: Mapping[str, Any], command: Mapping[str, Any]) -> None:
        file = self.path / RUN_FILE
        commands: list[Mapping[str, Any]] = []
        if file.exists():
            found = read_run(self.path)
            commands = found.pop(COMMANDS)
            found.pop(VIEW, None)
            difference = first_difference(found, run)
            if difference is not None:
                raise UsageError(f"{self.path}: holds another run ({difference}); give another folder to --out")
        elif any(path.name != ".lock" for path in self.path.iterdir()):
            raise UsageError(f"{self.path}: holds other files, but no run; give a new or empty folder to --out")
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        commands = [*commands, {"started": started, **command}]
        write_whole(file, json.dumps({**run, VIEW: view, COMMANDS: commands}, indent=1).encode() + b"\n")

    def _whole_units(self) -> set[str]:
        """Return the units all of whose rows and panels are there, and drop everything else from the files."""
        units = _rows_at(UnitRecord, self.path / UNITS_FILE)
        rows, panels = _rows_at(self._kind, self.path / ROWS_FILE), _rows_at(PanelRecord, self.path / PANELS_FILE)
        found, shown = Counter(row.unit for row in rows), Counter(panel.unit for panel in panels)
        whole = [record for record in units if (record.rows, record.panels) == (found[record.unit], shown[record.unit])]
        names = {record.unit for record in whole}
        _rewrite(self.path / UNITS_FILE, UnitRecord, whole)
        _rewrite(self.path / ROWS_FILE, self._kind, [row for row in rows if row.unit in names])
        _rewrite(self.path / PANELS_FILE, PanelRecord, [panel for panel in panels if panel.unit in names])
        return names

    def _write_panel(self, webp: bytes) -> str:
        name = f"panels/{hashlib.sha256(webp).hexdigest()[:24]}.webp"
        (self.path / "panels").mkdir(exist_ok=True)
        write_whole(self.path / name, webp)
        return name


@dataclass(frozen=True)
class Run(Generic[R]):
    """What lies in a run's folder.

    Attributes:
        path: the folder.
        about: run.json.
        rows: of all units that are done, in the order of their units in run.json.
        skipped: units that were skipped, and why.
        left: how many units are neither done nor skipped.
        panels: pictures for the report.
    """

    path: Path
    about: Mapping[str, Any]
    rows: list[R]
    skipped: Mapping[str, str]
    left: int
    panels: list[PanelRecord]


def load_run(path: Path, kind: type[R]) -> Run[R]:
    """Read the folder of a run whose rows are of *kind*, also while it is being written.

    Raises:
        DataError: it is no such folder.
    """
    about = read_run(path)
    units = _rows_at(UnitRecord, path / UNITS_FILE)
    place = {name: number for number, name in enumerate(about["units"])}
    done = {record.unit for record in units}
    rows = [row for row in _rows_at(kind, path / ROWS_FILE) if row.unit in done]
    rows.sort(key=lambda row: place[row.unit])  # stable: inside a unit they stay as they were written
    skipped = {record.unit: record.fault for record in units if record.fault is not None}
    panels = [panel for panel in _rows_at(PanelRecord, path / PANELS_FILE) if panel.unit in done]
    panels.sort(key=lambda panel: place[panel.unit])
    return Run(path, about, rows, skipped, len(place.keys() - done), panels)


def read_run(path: Path) -> dict[str, Any]:
    """Return run.json of the folder at *path*.

    Raises:
        DataError: there is none, or it is not one.
    """
    file = path / RUN_FILE
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
        if not {"report", "units", COMMANDS} <= run.keys():
            raise ValueError("it says nothing of a run")
    except FileNotFoundError as fault:
        raise DataError(f"{path}: not the folder of a run: it has no {RUN_FILE}") from fault
    except (OSError, ValueError, AttributeError) as fault:
        raise DataError(f"{file}: not the record of a run: {fault}") from fault
    return dict(run)


def first_difference(one: Any, other: Any, where: str = "") -> str | None:
    """Return in words where two plain values differ first; None if nowhere."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            found = first_difference(one.get(key), other.get(key), f"{where}.{key}" if where else str(key))
            if found is not None:
                return found
        return None if list(one) == list(other) else f"{where or 'the run'}: another order"
    return None if one == other else f"{where}: {_short(one)} there, {_short(other)} now"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _rows_at(kind: type[A], path: Path) -> list[A]:
    return read_rows(kind, path) if path.exists() else []


def _rewrite(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    write_whole(path, (header_of(kind) + lines_of(rows)).encode(errors=ERRORS))


def _append(file: FileIO, rows: Iterable[Row]) -> None:
    """Write *rows* to an unbuffered file: of a buffer that a full disk did not take, closing would raise once more."""
    left = lines_of(rows).encode(errors=ERRORS)
    while left:
        left = left[file.write(left) :]


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise OutputError(f"{path}: cannot be written: {fault.strerror or fault}") from fault
