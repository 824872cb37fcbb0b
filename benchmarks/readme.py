"""Tables that benchmarks write into README, between two comments that name them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    """Return a table; all columns but the first are *numbers*, or none is."""
    lines = [header, ["---", *["---:" if numbers else "---"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def replace_table(readme: Path, name: str, script: str, table: str) -> None:
    """Put *table* between the comments `name: begin (benchmarks/script)` and `name: end` of *readme*."""
    begin, end = f"<!-- {name}: begin (benchmarks/{script}) -->", f"<!-- {name}: end -->"
    text = readme.read_text(encoding="utf-8")
    text, times = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{table}{end}", text, flags=re.S
    )
    if times != 1:
        raise SystemExit(f"{readme}: the comments of the table {name!r} are missing")
    readme.write_text(text, encoding="utf-8")
