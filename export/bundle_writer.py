"""Write a bundle: files, hashes, manifest; whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from engines.bundle import MANIFEST, PLAN, SCHEMA, SUFFIX, Bundle, bundle_hash, exact_id
from engines.bundle_source import write_one_file
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from engines.open import check_known_answers
from runtime.errors import BundleError, OutputError
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


def write_bundle(out: Path, name: str, version: str, family: str, content: BundleContent) -> Path:
    """Write *content* as a bundle at *out*, whole or not at all, and open it once to check it.

    Args:
        out: a folder, or a file if its name ends in .bundle.

    Raises:
        OutputError: *out* is something else than a bundle, or cannot be written.
    """
    if out.exists() and not _is_bundle(out):
        raise OutputError(f"{out} exists and is not a bundle; nothing was written")
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
    partial = out.parent / f".partial-{out.name}"
    try:
        _remove(partial)
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == SUFFIX:
            write_one_file(partial, files)
        else:
            for path, data in files.items():
                file = partial / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
        verify_bundle(partial)
        if out.is_dir() or partial.is_dir():  # a folder cannot be replaced in one step
            _remove(out)
        partial.replace(out)
    except OSError as fault:
        raise OutputError(f"{out}: {fault.strerror}") from fault
    finally:
        _remove(partial)
    return out


def _is_bundle(path: Path) -> bool:
    try:
        Bundle.open(path)
    except BundleError:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
