"""Published curves from CSV files, to plot and compare with.

Columns are found by name, others are ignored:

    bpp                       mean bits per pixel; required
    psnr_db                   dB, blank if not known
    ms_ssim or ms_ssim_db     0..1, or -10 log10(1 - MS-SSIM)
    codec                     one curve for each; without it the file is one curve, of its name
    target_bpp                the cut of a mean at fixed bits per pixel; a setting such as "q=5", or no such column,
                              says that means are of another kind
    image                     the file is the rows.csv of `cutoff eval rd`, a row for each picture
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

from runtime.errors import DataError
from runtime.evaluate.distortion import decibels
from runtime.evaluate.rd.cuts import Cut
from runtime.evaluate.rd.summary import Curve, curves_from_points, sorted_curve, summarise
from runtime.evaluate.runs.rows import row_of

_Row = dict[str, str]


def read_curves(path: Path) -> list[Curve]:
    """Read the curves of the CSV file at *path*, in the order in which they begin.

    Raises:
        DataError: it cannot be read, lacks the columns, or a value is not a number.
    """
    rows = _rows(path)
    try:
        if "image" in rows[0]:
            return curves_from_points(summarise(row_of(Cut, row) for row in rows))
        groups: dict[str, list[_Row]] = {}
        for row in rows:
            groups.setdefault(row.get("codec", path.stem), []).append(row)
        return [_curve(label, group) for label, group in groups.items()]
    except (KeyError, TypeError, ValueError) as fault:
        raise DataError(f"{path}: not a file of curves: {fault}") from fault


def _rows(path: Path) -> list[_Row]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise DataError(f"{path}: not a file of curves: {fault}") from fault
    if not rows or "bpp" not in rows[0]:
        raise DataError(f"{path}: not a file of curves: it has no rows, or no column 'bpp'")
    return rows


def _curve(label: str, rows: list[_Row]) -> Curve:
    return sorted_curve(
        label=label,
        fixed_bpp=all(_is_rate(row.get("target_bpp", "")) for row in rows),
        bpp=[float(row["bpp"]) for row in rows],
        psnr_db=[_number(row.get("psnr_db", "")) for row in rows],
        ms_ssim_db=[_ms_ssim_db(row) for row in rows],
    )


def _ms_ssim_db(row: _Row) -> float:
    if row.get("ms_ssim_db"):
        return float(row["ms_ssim_db"])
    return decibels(float(row["ms_ssim"])) if row.get("ms_ssim") else math.nan


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _is_rate(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False
