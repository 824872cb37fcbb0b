"""Runs the command `cutoff` with a clock of the day that jumps meanwhile, as NTP or an empty battery makes it.

python jumping_clock.py OFFSET_FILE edge --config ...: `time.time` is off by the seconds that the file holds, now.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from runtime.cli.main import main

_real = time.time


def jump_with(file: Path) -> None:
    """Let `time.time` be off by what *file* says."""

    def jumping() -> float:
        try:
            return _real() + float(file.read_text())
        except (OSError, ValueError):
            return _real()

    time.time = jumping


if __name__ == "__main__":
    jump_with(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
