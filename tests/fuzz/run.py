#!/usr/bin/env python3
"""Search inputs of a fuzz target that show a fault, or that reach what no kept input reaches (`make fuzz`).

    PYTHONPATH=. python tests/fuzz/run.py TARGET FOLDER [libFuzzer's options]     for instance -runs=100000
    PYTHONPATH=. python tests/fuzz/run.py TARGET FOLDER --keep                    renew tests/fuzz/corpus/TARGET

Finds lie in FOLDER/TARGET, inputs that show a fault beside it. A fault is an exception or warning that is no error of
cutoff, or a second of processor time for one input. How many were run stands in FOLDER/TARGET.json, which is a second
old at most. Needs atheris (`.[fuzz]`).
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import warnings
from pathlib import Path
from types import CodeType
from typing import Any

import atheris

HERE = Path(__file__).parent
LONGEST_S = 1.0  # of processor time, which does not grow when others use the machine
_REPORT_EVERY_S = 1.0
LARGEST_KEPT = 4096  # bytes of one input
LARGEST_INPUT = 8192

# The kernels are left alone: numba compiles what it finds there.
with atheris.instrument_imports(include=["runtime", "engines"], exclude=["runtime.entropy.kernels"]):
    from fuzzing import NAMES, Target, load

    TARGETS = {name: load(name) for name in NAMES if name in sys.argv}


def main() -> None:
    """Fuzz, or keep what was found."""
    if len(sys.argv) < 3 or sys.argv[1] not in TARGETS:
        sys.exit(f"{__doc__}\nTargets: {', '.join(NAMES)}")
    name, folder, options = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    found = folder / name
    found.mkdir(parents=True, exist_ok=True)
    target = TARGETS[name]
    if options == ["--keep"]:
        keep(target, found, HERE / "corpus" / name)
        return
    for seed in [*target.seeds().values(), *(path.read_bytes() for path in (HERE / "corpus" / name).glob("*"))]:
        (found / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    warnings.simplefilter("error")  # a warning is no error of cutoff
    target.one_input(b"")  # opens and compiles what is opened and compiled once
    counted = Counted(target, folder / f"{name}.json")
    arguments = [sys.argv[0], f"-max_len={LARGEST_INPUT}", f"-artifact_prefix={folder}/{name}-", *options, str(found)]
    atheris.Setup(arguments, counted)
    atheris.Fuzz()


class Counted:
    """A target that counts its runs and refuses to take too long."""

    def __init__(self, target: Target, report: Path) -> None:
        self._target, self._report = target, report
        self._began = self._reported = time.monotonic()
        self._runs, self._longest_s = 0, 0.0

    def __call__(self, data: bytes) -> None:
        """Run the target once."""
        self._runs += 1
        began = time.process_time()
        self._target.one_input(data)
        taken = time.process_time() - began
        self._longest_s = max(self._longest_s, taken)
        if taken > LONGEST_S:
            raise TimeoutError(f"{taken:.2f} s for one input")
        if time.monotonic() > self._reported + _REPORT_EVERY_S:
            self._write_report()

    def _write_report(self) -> None:
        self._reported = time.monotonic()
        seconds = round(self._reported - self._began)
        figures = {"runs": self._runs, "seconds": seconds, "longest_input_s": round(self._longest_s, 3)}
        self._report.write_text(json.dumps(figures) + "\n")


def keep(target: Target, found: Path, kept: Path) -> None:
    """Replace the kept inputs by few of *found* that reach every line and branch which all of them do.

    Small inputs come first; one is kept if it takes a step from line to line that none before it, and no seed, took.
    Inputs that once showed a fault, `fault-*`, stay.
    """
    reached: set[tuple[str, int, int]] = set()
    for seed in target.seeds().values():
        reached |= steps_of(target, seed)
    inputs = {path.read_bytes() for folder in (found, kept) if folder.is_dir() for path in folder.iterdir()}
    kept.mkdir(parents=True, exist_ok=True)
    for path in kept.iterdir():
        if not path.name.startswith("fault-"):
            path.unlink()
    for data in sorted(inputs, key=lambda data: (len(data), data)):
        if len(data) > LARGEST_KEPT:
            break
        steps = steps_of(target, data)
        if steps - reached:
            reached |= steps
            (kept / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    print(f"{kept}: {len(list(kept.iterdir()))} of {len(inputs)} inputs")


def steps_of(target: Target, data: bytes) -> set[tuple[str, int, int]]:
    """Return (file, line, next line) of all that the product ran through."""
    steps: set[tuple[str, int, int]] = set()

    def enter(frame: Any, event: str, _: object) -> Any:
        code: CodeType = frame.f_code
        if not ("/runtime/" in code.co_filename or "/engines/" in code.co_filename):
            return None
        last = 0

        def line(frame: Any, event: str, _: object) -> Any:
            nonlocal last
            if event == "line":
                steps.add((code.co_filename, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        return line

    sys.settrace(enter)
    try:
        target.one_input(data)
    finally:
        sys.settrace(None)
    return steps


if __name__ == "__main__":
    main()
