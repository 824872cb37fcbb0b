"""Files of results: written beside their place as results come, and moved there when all is done."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TextIO

from runtime.errors import OutputError
from runtime.evaluate.rd import Cut

COLUMNS = tuple(field.name for field in fields(Cut))
FULL = "full"  # target_bpp of a full stream


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new empty neighbour of *path*, which takes its place when the block ends well and is removed otherwise.

    Raises:
        OutputError: *path* cannot be written; known before the block begins, as far as it can be.
    """
    target = Path(os.path.realpath(path))
    neighbour = target.with_name(f".{target.stem}.part-{os.getpid()}{target.suffix}")
    if target.exists() and not target.is_file():
        raise OutputError(f"{path}: cannot be written: it is not a file")
    with _translated(path):
        neighbour.touch(exist_ok=False)
    try:
        yield neighbour
        with _translated(path):
            neighbour.replace(target)
    finally:
        neighbour.unlink(missing_ok=True)  # gone already if it was renamed


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise OutputError(f"{path}: cannot be written: {fault.strerror or fault}") from fault


class CutWriter:
    """Appends cuts to a CSV file with the columns `COLUMNS`; blank is what is not known."""

    def __init__(self, file: TextIO) -> None:
        """Write the line of names to *file*, opened with newline=''."""
        self._file = file
        self._write([COLUMNS])

    def write(self, cuts: Iterable[Cut]) -> None:
        """Append *cuts*, and hand them to the system.

        Raises:
            OutputError: the file cannot be written.
        """
        self._write([_row(cut) for cut in cuts])

    def _write(self, rows: Iterable[Iterable[str | int]]) -> None:
        try:
            csv.writer(self._file, lineterminator="\n").writerows(rows)
            self._file.flush()
        except OSError as fault:
            raise OutputError(f"results cannot be written: {fault.strerror}") from fault


def _row(cut: Cut) -> list[str | int]:
    return [
        cut.codec,
        cut.image,
        FULL if cut.target_bpp is None else f"{cut.target_bpp:g}",
        cut.bytes,
        f"{cut.bpp:.6f}",
        "" if cut.psnr_db is None else f"{cut.psnr_db:.4f}",
        "" if cut.ms_ssim is None else f"{cut.ms_ssim:.6f}",
    ]
