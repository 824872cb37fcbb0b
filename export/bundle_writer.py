"""Write a bundle: files, hashes, manifest; whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from engines.bundle import MANIFEST, PLAN, SCHEMA, SUFFIX, Bundle, bundle_hash, exact_id
from engines.bundle_source import write_one_file
from engines.manifest import BundleLimits, parse_manifest
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from engines.open import check_known_answers
from export.finite import listed
from runtime.errors import BundleError, EngineError, OutputError, UsageError
from runtime.model import Model
from runtime.stream import Limits


@dataclass
class BundleContent:
    """What a family's exporter produces.

    Attributes:
        settings: of the family's runtime.
        plan: those settings that decide what a stream says; they become an exact file.
        files: path -> bytes.
        graphs: role -> manifest entry (file, exact, inputs, outputs, known_answers, and what is worth telling).
        exact_files: paths that make the exact_id.
        measured: figures for the manifest and the model card.
    """

    settings: dict[str, Any]
    plan: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    graphs: dict[str, dict[str, Any]] = field(default_factory=dict)
    exact_files: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)


def destination(out: Path, name: str, version: str, family: str) -> Path:
    """Return where a bundle for *out* is written, links followed; refuse beforehand what cannot be written there.

    Raises:
        UsageError: *name* or *version* is none that a manifest may have.
        OutputError: *out* is something else than a bundle, holds files that are not the bundle's, or is no place where
            anything can be written.
    """
    try:
        parse_manifest(_with_manifest(name, version, family, BundleContent(settings={}))[MANIFEST], BundleLimits())
    except BundleError as fault:
        raise UsageError(f"the bundle's {fault}") from fault
    place = Path(os.path.realpath(out))
    parent = place.parent
    while not os.path.lexists(parent):
        parent = parent.parent
    try:
        if not parent.is_dir():
            raise OutputError(f"{out}: {parent} is no folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise OutputError(f"{out}: nothing may be written in {parent}")
        longest = os.pathconf(parent, "PC_NAME_MAX")
        if any(len(os.fsencode(part)) > longest for part in place.relative_to(parent).parts):
            raise OutputError(f"{out}: a name of more than {longest} bytes")
        if os.path.lexists(place):
            _require_replaceable(place)
    except OSError as fault:
        raise OutputError(f"{out}: {fault.strerror or fault}") from fault
    return place


def _require_replaceable(place: Path) -> None:
    """Refuse to replace what is no bundle, and a folder in which somebody has put something else.

    Raises:
        OutputError: which of it is so.
    """
    try:
        Bundle.open(place)
    except BundleError as fault:
        raise OutputError(f"{place} exists and is not a bundle; nothing was written") from fault
    if not place.is_dir():
        return
    manifest = parse_manifest((place / MANIFEST).read_bytes(), BundleLimits())
    own = {MANIFEST, *(entry.path for entry in manifest.files)}
    there = {
        (Path(folder) / name).relative_to(place).as_posix()
        for folder, folders, files in os.walk(place)
        for name in (*files, *(one for one in folders if os.path.islink(os.path.join(folder, one))))
    }
    if foreign := sorted(there - own):
        raise OutputError(f"{place} holds {listed(foreign)}, not of the bundle there; nothing was written")


def write_bundle(out: Path, name: str, version: str, family: str, content: BundleContent) -> Path:
    """Write *content* as a bundle at *out*, whole or not at all, and open it once to check it.

    Args:
        out: a folder, or a file if its name ends in .bundle.

    Raises:
        UsageError, OutputError: see `destination`; or it cannot be written.
    """
    place = destination(out, name, version, family)
    files = _with_manifest(name, version, family, content)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".export-", dir=place.parent))
        partial, old = work / "new", work / "old"
        try:
            if SUFFIX in (out.suffix, place.suffix):
                write_one_file(partial, files)
            else:
                _write_folder(partial, files)
            _verify(partial, name)
            _replace(place, partial, old)
        finally:
            # Only if even putting back has failed, the old bundle is all that there is.
            if os.path.lexists(place) or not os.path.lexists(old):
                shutil.rmtree(work, ignore_errors=True)
    except OSError as fault:
        raise OutputError(f"{place}: {fault.strerror or fault}") from fault
    return place


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def _replace(place: Path, new: Path, old: Path) -> None:
    """Put *new* at *place*, and what was there at *old* where it cannot be replaced in one step; or change nothing."""
    if not os.path.lexists(place) or not (place.is_dir() or new.is_dir()):
        new.replace(place)
        return
    try:
        place.rename(old)
        new.rename(place)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(place):
            old.rename(place)
        raise


def _with_manifest(name: str, version: str, family: str, content: BundleContent) -> dict[str, bytes]:
    """Return all files of the bundle."""
    files, exact_files = dict(content.files), sorted(content.exact_files)
    if content.plan:
        files[PLAN] = (json.dumps(content.plan, indent=1, sort_keys=True) + "\n").encode()
        exact_files = sorted([*exact_files, PLAN])
    exact = {path: files[path] for path in exact_files}
    manifest = {
        "schema": SCHEMA,
        "name": name,
        "version": version,
        "family": family,
        "exact_id": exact_id(exact).hex(),
        "bundle_hash": bundle_hash(files),
        "created_by": {"torch": torch.__version__, "onnx": onnx.__version__, "numpy": np.__version__},
        "settings": content.settings,
        "graphs": content.graphs,
        "exact_files": exact_files,
        "measured": content.measured,
        "files": [
            {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for path, data in sorted(files.items())
        ],
    }
    files[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    return files


def _verify(partial: Path, name: str) -> None:
    """Verify the bundle at *partial*, which errors call by its *name*: nobody finds that path later."""
    try:
        verify_bundle(partial)
    except (BundleError, EngineError) as fault:
        raise type(fault)(str(fault).replace(str(partial), name)) from fault


def verify_bundle(path: Path) -> None:
    """Open the bundle, run every known answer, and prove every exact graph from its file.

    Raises:
        BundleError, EngineError: something is not as it was to be.
    """
    bundle = Bundle.open(path)
    for spec in bundle.graphs.values():
        if spec.known_answers is not None:
            check_known_answers(bundle, spec, OnnxRuntimeCpu(bundle.read(spec.file), spec, 1))
    exact = [spec.role for spec in bundle.graphs.values() if spec.exact]
    if exact:
        model = Model(bundle, "auto", 1, Limits())
        for role in exact:
            model.prove(role)
