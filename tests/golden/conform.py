"""Check any decoder against the golden files: does it show the stated pictures, and refuse what must be refused?

    python tests/golden/conform.py [--only TEXT] [--jobs N] -- COMMAND {bundle} {stream} {picture} [{symbols}]

COMMAND decodes one file into one picture. It is run once per case, with the names filled in:

    {bundle}    the folder of the case's bundle: one of a family each
    {stream}    a file that holds a stream, or a prefix of one
    {picture}   the file to write, by default .png (--suffix .ppm if that is easier)
    {symbols}   if the command offers it: a JSON file to write, {"z": [symbols], "y": [nodes]}, FORMAT.md section 7.1;
                not compared where a family has other fields

for instance `-- cutoff decode {stream} -o {picture} --bundle {bundle}`. What each kind of case asks:

    valid, cut  exit status 0, the stated picture within the stated tolerance, the stated symbols
    damaged     the same, of what precedes the damage; or, as strict decoders do, refusal
    invalid     refusal: another exit status, by no signal, and no picture

One line per case, then a summary. Exit status: 0 if all cases passed, 1 if not, 2 if the call is wrong. Needs Python,
numpy and Pillow, and nothing of cutoff but this folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
STATED = HERE / "pictures"


@dataclass(frozen=True)
class Case:
    """One run of the command.

    Attributes:
        kind: valid, cut, damaged or invalid.
        stream: what the command is given.
        bundle: folder of the bundle that it is of.
        stated: what a picture must be, see `pictures/expected.json`; None if there must be none.
        tolerance: by how much a sample may differ.
    """

    name: str
    kind: str
    stream: bytes
    bundle: Path
    stated: dict[str, Any] | None
    tolerance: int


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit status, the end of what it said, and the files that it wrote."""

    status: int
    said: str
    picture: Path
    symbols: Path


def read_cases() -> list[Case]:
    """Return all cases, in the order of the golden files."""
    expected = json.loads((STATED / "expected.json").read_text(encoding="utf-8"))
    cases = []
    for name, stated in expected["cases"].items():
        stream = (HERE / stated["stream"]).read_bytes()[: stated["bytes"]]
        folder = Path(stated["stream"]).parent.name
        kind = "cut" if stated["bytes"] is not None else "damaged" if folder == "damaged" else "valid"
        cases.append(Case(name, kind, stream, HERE / stated["bundle"], stated, expected["tolerance"]))
    for name in json.loads((HERE / "invalid" / "expected.json").read_text(encoding="utf-8")):
        cases.append(Case(name, "invalid", (HERE / "invalid" / f"{name}.cut").read_bytes(), HERE / "tiny", None, 0))
    return cases


def fault_of(case: Case, outcome: Outcome) -> str | None:
    """Return what is wrong with what the command did; None if nothing is."""
    if outcome.status < 0:
        return f"ended by signal {-outcome.status}"
    refused = outcome.status > 0
    if refused and outcome.picture.exists():
        return f"exit status {outcome.status}, but there is a picture"
    if case.stated is None:
        return None if refused else "was not refused"
    if refused:
        return None if case.kind == "damaged" else f"was refused: exit status {outcome.status}: {outcome.said}"
    if not outcome.picture.exists():
        return "exit status 0, but there is no picture"
    return _fault_of_picture(case.stated, outcome.picture, case.tolerance) or (
        _fault_of_symbols(case.stated, outcome.symbols) if outcome.symbols.name else None
    )


def _fault_of_picture(stated: dict[str, Any], path: Path, tolerance: int) -> str | None:
    try:
        found = _samples(path)
    except (OSError, ValueError) as fault:
        return f"the picture cannot be read: {fault}"
    if stated["grey"] and found.ndim == 3 and (found == found[:, :, :1]).all():
        found = found[:, :, 0]
    shape = (stated["height"], stated["width"], *(() if stated["grey"] else (3,)))
    if found.shape != shape:
        return f"the picture has shape {found.shape}, not {shape}"
    every = stated["every"]
    thinned = found[every - 1 :: every, every - 1 :: every]
    differences = [int(np.abs(thinned - _samples(STATED / name)).max()) for name in stated["pictures"]]
    if min(differences) > tolerance:
        return f"a sample of the picture differs by {min(differences)}; allowed: {tolerance}"
    return None


def _fault_of_symbols(stated: dict[str, Any], path: Path) -> str | None:
    names = {key: name for key, name in (("z", "z_symbols_sha256"), ("y", "y_nodes_sha256")) if name in stated}
    if not names:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        hashes = {key: hashlib.sha256(np.array(found[key], "<i2").tobytes()).hexdigest() for key in names}
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as fault:
        return f"the symbols cannot be read: {fault!r}"
    for key, name in names.items():
        if hashes[key] != stated[name]:
            return f"{key} has other symbols than stated"
    return None


def _samples(path: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return int64 (H, W, 3) or (H, W)."""
    with Image.open(path) as picture:
        return np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"), np.int64)


def run(case: Case, command: Sequence[str], suffix: str, timeout_s: float) -> str | None:
    """Run *command* on *case*; return what is wrong, or None."""
    with tempfile.TemporaryDirectory() as folder:
        stream, picture = Path(folder) / "stream.cut", Path(folder) / f"picture{suffix}"
        symbols = Path(folder) / "symbols.json" if any("{symbols}" in word for word in command) else Path()
        stream.write_bytes(case.stream)
        names = {"{bundle}": case.bundle, "{stream}": stream, "{picture}": picture, "{symbols}": symbols}
        words = list(command)
        for name, path in names.items():
            words = [word.replace(name, str(path)) for word in words]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=timeout_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"took more than {timeout_s:g} s"
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["nothing was said"]
        return fault_of(case, Outcome(done.returncode, said[0], picture, symbols))


def main() -> int:
    """Run all cases and print what came of them."""
    parser = argparse.ArgumentParser(
        prog="conform.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases with TEXT in kind or name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="commands at a time")
    parser.add_argument("--suffix", default=".png", help="of the picture's file")
    parser.add_argument("--timeout-s", type=float, default=60.0, metavar="S", help="longest run of one command")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="with {stream} and {picture} in it")
    arguments = parser.parse_args()
    for name in ("{stream}", "{picture}"):
        if not any(name in word for word in arguments.command):
            parser.error(f"the command lacks {name}")
    cases = [case for case in read_cases() if arguments.only in f"{case.kind} {case.name}"]
    if not cases:
        parser.error(f"no case has {arguments.only!r} in its name")

    def check(case: Case) -> str | None:
        return run(case, arguments.command, arguments.suffix, arguments.timeout_s)

    failed = 0
    try:
        with ThreadPoolExecutor(max(1, arguments.jobs)) as pool:
            for case, fault in zip(cases, pool.map(check, cases), strict=True):
                failed += fault is not None
                verdict = (
                    f"FAIL  {case.kind:<7}  {case.name}: {fault}" if fault else f"pass  {case.kind:<7}  {case.name}"
                )
                print(verdict, flush=True)
    except OSError as fault:
        parser.error(f"the command cannot be run: {fault}")
    print(f"{len(cases)} cases: {len(cases) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
