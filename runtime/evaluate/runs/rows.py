"""Rows of results files: frozen dataclasses of plain values, a column for each field, as CSV.

A field that is None is written blank, or as the word that its metadata give under `none`.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from runtime.errors import DataError

FULL = "full"  # what stands for the whole stream in a column of cuts
FULL_IF_NONE = {"none": FULL}  # metadata of such a field
ERRORS = "surrogateescape"  # of reading and writing as UTF-8: names of files need not be


class Row(Protocol):
    """A dataclass whose fields are str, int, float, bool, or one of them and None."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


class UnitRow(Row, Protocol):
    """A row that belongs to a unit of work."""

    @property
    def unit(self) -> str:
        """The unit's name."""
        ...


R = TypeVar("R", bound=Row)


def header_of(kind: type[Row]) -> str:
    """Return the line of names."""
    return _line(kind.__dataclass_fields__)


def lines_of(rows: Iterable[Row]) -> str:
    """Return a line for each of *rows*; floats with seven digits."""
    return "".join(
        _line(_cell(getattr(row, name), field) for name, field in row.__dataclass_fields__.items()) for row in rows
    )


def read_rows(kind: type[R], path: Path) -> list[R]:
    """Read the rows of the file at *path*; columns are found by name, others are ignored, as is an unfinished line.

    A field that has a default may lack its column.

    Raises:
        DataError: the file cannot be read, lacks a column, or a value is not of its field's kind.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors=ERRORS) as file:
            text = file.read()
        whole = text[: text.rfind("\n") + 1]  # whoever wrote the file may have been stopped inside a line
        return [row_of(kind, cells) for cells in csv.DictReader(io.StringIO(whole, newline=""))]
    except (OSError, csv.Error, KeyError, TypeError, ValueError) as fault:
        raise DataError(f"{path}: not a file of {kind.__name__.lower()}s: {fault}") from fault


def row_of(kind: type[R], cells: Mapping[str, str]) -> R:
    """Return the row that *cells* hold; KeyError, TypeError or ValueError if they do not."""
    types_of = _types(kind)
    return kind(
        **{
            name: _value(cells[name], types_of[name], field.metadata.get("none", ""))
            for name, field in kind.__dataclass_fields__.items()
            if name in cells or field.default is dataclasses.MISSING
        }
    )


def _line(cells: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _cell(value: Any, field: dataclasses.Field[Any]) -> str:
    if value is None:
        return str(field.metadata.get("none", ""))
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _value(text: str, kinds: Sequence[type], none: str) -> Any:
    if text == none and type(None) in kinds:
        return None
    kind = kinds[0]
    if kind is bool:
        return {"0": False, "1": True}[text]
    return kind(text)


@cache
def _types(kind: type[Row]) -> dict[str, tuple[type, ...]]:
    """Return the types that each field may have, None last."""
    return {
        name: typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        for name, hint in typing.get_type_hints(kind).items()
        if name in kind.__dataclass_fields__
    }
