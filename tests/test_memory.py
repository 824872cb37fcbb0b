"""No claim costs memory: hostile streams and bundle files are refused by a process that could not pay for them.

One process of its own tries them all, with an address space of little more than it has at the start: what is allocated
anywhere, in Python, numpy or a library, counts, and would show as MemoryError.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_hostile_claims_cost_no_memory() -> None:
    """Every claim is refused by name within 100 MB, and the control, an allocation of twice that, is not possible."""
    paths = os.pathsep.join(map(str, (HERE.parent, HERE / "engines")))
    done = subprocess.run(
        [sys.executable, str(HERE / "hostile_claims.py")],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "control: MemoryError" and len(lines) > 20
    for line in lines[:-1]:
        claim, _, kind = line.rpartition(": ")
        assert kind in ("StreamError", "LimitExceeded", "Incomplete", "BundleError"), claim
