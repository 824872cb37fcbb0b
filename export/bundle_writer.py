"""Write a bundle folder: files, hashes, manifest; whole or not at all."""

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

from engines.bundle import MANIFEST, PLAN, SCHEMA, Bundle, bundle_hash, exact_id
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from engines.open import check_known_answers
from runtime.errors import OutputError
from runtime.model import Model
from runtime.stream import Limits

CARD = "MODEL_CARD.md"  # for people; not among the manifest's files, so that it can be written once results are known


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
    """Write *content* as a bundle folder at *out*, whole or not at all, and open it once to check it.

    Raises:
        OutputError: *out* is something else than a bundle, or cannot be written.
    """
    if out.exists() and not (out / MANIFEST).is_file():
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
    partial = out.parent / f".{out.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for path, data in files.items():
            file = partial / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        if (out / CARD).is_file():
            shutil.copy(out / CARD, partial / CARD)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        verify_bundle(partial)
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    except OSError as fault:
        raise OutputError(f"{out}: {fault.strerror}") from fault
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def verify_bundle(folder: Path) -> None:
    """Open the bundle, run every known answer, and prove every exact graph from its file.

    Raises:
        BundleError, EngineError: something is not as it was to be.
    """
    bundle = Bundle.open(folder)
    for spec in bundle.graphs.values():
        if spec.known_answers is not None:
            check_known_answers(bundle, spec, OnnxRuntimeCpu(bundle.read(spec.file), spec, 1))
    exact = [spec.role for spec in bundle.graphs.values() if spec.exact]
    if exact:
        model = Model(bundle, "auto", 1, Limits())
        for role in exact:
            model.prove(role)
