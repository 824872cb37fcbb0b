"""README's tables, made from what reports come to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import figures
import pytest


def point(target: float, bpp: float, psnr_db: float | None = 35.418) -> dict[str, Any]:
    return {"codec": "one", "target_bpp": target, "bpp": bpp, "psnr_db": psnr_db, "nothing_to_show": 0}


def test_cells_that_are_not_at_their_columns_rate_say_so() -> None:
    """From one percent below on, in brackets."""
    points = [point(0.05, 0.0483), point(0.1, 0.0991), point(0.2, 0.2), point(0.75, 0.699), point(1.0, 0.8907)]
    row = figures.rd_table({"points": points, "bd_rate": []}).splitlines()[-1]
    assert row == "| one | 35.42 (0.048) | 35.42 | 35.42 |  |  | 35.42 (0.70) | 35.42 (0.89) |  |"


def test_kept_results_become_tables_without_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were asked for, into the README that was named; nothing runs."""
    goal = {"codec": "one", "load": "idle", "figure": "in time", "wanted": "at least 99.9 %",
            "measured": "100.00 % (99.41 to 100.00)", "n": 647, "reached": True}  # fmt: skip
    (tmp_path / "deadline.json").write_text(json.dumps({"goals": [goal]}))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- deadline: begin (benchmarks/figures.py) -->\nold\n<!-- deadline: end -->\n")
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    monkeypatch.setattr(figures, "call", None)
    monkeypatch.setattr(sys, "argv", ["figures.py", "--kept", "deadline", "--readme", str(readme)])
    figures.main()
    text = readme.read_text()
    assert "| one | idle | in time | at least 99.9 % | 100.00 % (99.41 to 100.00) | 647 | yes |" in text
    assert "old" not in text
