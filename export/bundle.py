"""`python -m export bundle`: a trained run becomes a bundle.

    checkpoint -> tables, exact h_s, free graphs -> files -> manifest with hashes -> folder, renamed into place
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from engines.bundle import MANIFEST, SCHEMA, Bundle, bundle_hash, exact_id
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from engines.open import check_known_answers
from export.families import EXPORTERS
from export.networks.backbones import make_backbone
from export.training.checkpoint import load_checkpoint, newest_checkpoint
from export.training.config import TrainingSettings
from export.training.pictures import load_pictures, split_held_out
from runtime.errors import ConfigurationError, OutputError, UsageError
from runtime.settings import load_settings


@dataclass
class BundleContent:
    """What a family's exporter produces.

    Attributes:
        settings: of the family's runtime.
        files: path -> bytes.
        graphs: role -> manifest entry (file, exact, inputs, outputs, known_answers, and what is worth telling).
        exact_files: paths that make the exact_id.
        measured: figures for the manifest and the model card.
    """

    settings: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    graphs: dict[str, dict[str, Any]] = field(default_factory=dict)
    exact_files: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("config", type=Path, help="settings the model was trained with")
    parser.add_argument("--run", type=Path, help="folder of the training run (default: runs/NAME)")
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="calibration takes held-out ones")
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to write; replaced if it is a bundle")
    parser.add_argument("--version", default="0.1.0")
    parser.add_argument("--synthesis", choices=("cuts", "paper"), default="cuts", help="which decoder ships")


def run(arguments: argparse.Namespace) -> None:
    """Make the bundle and print what was measured."""
    settings = load_settings(TrainingSettings, arguments.config)
    if settings.family not in EXPORTERS:
        raise ConfigurationError(f"family {settings.family!r} is unknown; there are {', '.join(sorted(EXPORTERS))}")
    networks, trained = load_networks(settings, arguments.run or Path("runs") / settings.name)
    pictures = load_pictures(arguments.pictures, settings.patch)
    held_out, _ = split_held_out(pictures, settings.held_out)
    torch.set_num_threads(1)
    content = EXPORTERS[settings.family](networks, settings, held_out, arguments.synthesis)
    content.measured["trained_steps"] = trained
    folder = write_bundle(arguments.out, settings.name, arguments.version, settings.family, content)
    print(json.dumps({"bundle": str(folder), **content.measured}, indent=1))


def load_networks(settings: TrainingSettings, run_folder: Path) -> tuple[Any, dict[str, int]]:
    """Return the networks with their newest averaged weights, and how many steps of which stage they have seen.

    Raises:
        UsageError: the run has no checkpoint.
    """
    from export.training.command import FAMILIES  # here, since that module is the other command

    newest = newest_checkpoint(run_folder)
    if newest is None:
        raise UsageError(f"{run_folder} has no checkpoint; train first")
    family = FAMILIES[settings.family](settings, make_backbone(settings.backbone, settings.network))
    tensors, state = load_checkpoint(newest)
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    weights |= {k.removeprefix("average."): v for k, v in tensors.items() if k.startswith("average.")}
    missing = family.networks.load_state_dict(weights, strict=False)
    if missing.unexpected_keys:
        raise UsageError(f"{newest} is not of these networks: unexpected {missing.unexpected_keys[0]}")
    names = list(family.stages)
    done = {n: settings.stages[n].steps for n in names[: names.index(state["stage"])]}
    return family.networks.eval(), {**done, state["stage"]: state["stage_step"]}


def write_bundle(out: Path, name: str, version: str, family: str, content: BundleContent) -> Path:
    """Write *content* as a bundle folder at *out*, whole or not at all, and open it once to check it.

    Raises:
        OutputError: *out* is something else than a bundle, or cannot be written.
    """
    if out.exists() and not (out / MANIFEST).is_file():
        raise OutputError(f"{out} exists and is not a bundle; nothing was written")
    card = out / "MODEL_CARD.md"
    if card.is_file():
        content.files["MODEL_CARD.md"] = card.read_bytes()
    exact = {path: content.files[path] for path in content.exact_files}
    manifest = {
        "schema": SCHEMA,
        "name": name,
        "version": version,
        "family": family,
        "exact_id": exact_id(exact).hex(),
        "bundle_hash": bundle_hash(content.files),
        "created_by": {"torch": torch.__version__, "onnx": onnx.__version__, "numpy": np.__version__},
        "settings": content.settings,
        "graphs": content.graphs,
        "exact_files": sorted(content.exact_files),
        "measured": content.measured,
        "files": [
            {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for path, data in sorted(content.files.items())
        ],
    }
    partial = out.parent / f".{out.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for path, data in content.files.items():
            file = partial / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
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
    """Open the bundle and run every known answer."""
    bundle = Bundle.open(folder)
    for spec in bundle.graphs.values():
        if spec.known_answers is not None:
            check_known_answers(bundle, spec, OnnxRuntimeCpu(bundle.read(spec.file), spec, 1))


def cropped(picture: Tensor, stride: int) -> Tensor:
    """Return uint8 (3, H, W) as float32 (1, 3, H', W') in 0..1, cut to multiples of *stride*."""
    height, width = (size // stride * stride for size in picture.shape[1:])
    return picture[None, :, :height, :width].float().div(255.0)
