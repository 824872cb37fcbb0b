"""What a run rests on: hashes of inputs and code, versions, and the machine, without anything personal."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import engines
import runtime
from engines.open import available_cores
from runtime.errors import DataError

_PACKAGES = ("numpy", "onnxruntime", "pillow", "constriction", "numba", "ray")
_NOT_MEASURING = ("cli", "report")  # folders of code that no figure comes from


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the file at *path*, hexadecimal.

    Raises:
        DataError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while portion := file.read(1 << 20):
                digest.update(portion)
    except OSError as fault:
        raise DataError(f"{path}: cannot be read: {fault.strerror}") from fault
    return digest.hexdigest()


def software() -> dict[str, str]:
    """Return versions by name; `code` is a hash of the sources of codec and evaluation."""
    versions = {"cutoff": _version("cutoff") or "checkout", "code": _code_hash(), "python": platform.python_version()}
    found = ((name, _version(name)) for name in _PACKAGES)
    return versions | {name: version for name, version in found if version is not None}


def machine() -> dict[str, str | int]:
    """Return what the figures were measured on; neither names nor addresses."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor(),
        "cores": available_cores(),
        "memory_gb": round(memory / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor() -> str:
    """Return what the machine calls its processor."""
    return of_processor("model name", "Model") or platform.processor() or platform.machine()


def of_processor(*names: str) -> str:
    """Return what Linux says of the first processor under one of *names*; nothing where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    entries = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in entries if name.strip() in names), "")


def command_line(words: Sequence[str] | None = None) -> str:
    """Return the command that runs, ready for a shell; the home folder is ~, so that no name stays in reports."""
    given = sys.argv[1:] if words is None else words
    return shlex.join(["cutoff", *given]).replace(str(Path.home()) + os.sep, "~/")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _code_hash() -> str:
    digest = hashlib.sha256()
    for path in _measuring_sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _measuring_sources() -> Iterable[Path]:
    for package in (engines, runtime):
        (folder,) = package.__path__
        for path in sorted(Path(folder).rglob("*.py")):
            if not set(path.relative_to(folder).parts) & set(_NOT_MEASURING):
                yield path
