from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runtime.errors import DataError
from runtime.evaluate.runs.rows import FULL_IF_NONE, header_of, lines_of, read_rows


@dataclass(frozen=True)
class Sample:
    """One of every kind of field."""

    name: str
    cut: float | None = field(metadata=FULL_IF_NONE)
    count: int
    psnr: float | None
    right: bool
    later: float = math.nan


ROWS = [Sample("a,b", 0.1, 4915, 28.12346, True, 1.5), Sample("c", None, 7, None, False, 0.0)]


def write(folder: Path, text: str) -> Path:
    path = folder / "rows.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_are_what_was_written(tmp_path: Path) -> None:
    """Blank is what is not known, and a cut of nothing less is the full stream."""
    text = header_of(Sample) + lines_of(ROWS)
    assert text == 'name,cut,count,psnr,right,later\n"a,b",0.1,4915,28.12346,1,1.5\nc,full,7,,0,0\n'
    assert read_rows(Sample, write(tmp_path, text)) == ROWS


def test_an_unfinished_line_is_ignored(tmp_path: Path) -> None:
    text = header_of(Sample) + lines_of(ROWS)
    assert read_rows(Sample, write(tmp_path, text[:-3])) == ROWS[:1]


def test_infinite_values_stay(tmp_path: Path) -> None:
    row = Sample("a", 0.1, 1, math.inf, True)
    (found,) = read_rows(Sample, write(tmp_path, header_of(Sample) + lines_of([row])))
    assert found.psnr == math.inf and math.isnan(found.later)


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    """Others are ignored; a field with a default may be missing."""
    text = "more,right,psnr,count,cut,name\nx,1,2.5,3,full,a\n"
    (found,) = read_rows(Sample, write(tmp_path, text))
    assert (found.name, found.cut, found.count, found.psnr, found.right) == ("a", None, 3, 2.5, True)


@pytest.mark.parametrize("line", ["a,1", "a,1,x,1,1", "a,1,1,1,yes", "a"])
def test_not_such_rows(line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.csv: not a file of samples"):
        read_rows(Sample, write(tmp_path, f"name,cut,count,psnr,right\n{line}\n"))
