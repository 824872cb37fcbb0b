"""Checkpoints: a folder per step with safetensors pieces and a small JSON file, written beside and renamed.

Pieces stay below `PIECE_BYTES`, so that a checkpoint of any network can travel in parts.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

PIECE_BYTES = 15 << 20


def save_checkpoint(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], keep: int = 2) -> Path:
    """Write `folder/step-NNNNNNN` and delete all but the newest *keep* checkpoints; an interrupted save leaves none."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:07d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    piece: dict[str, Tensor] = {}
    size = pieces = 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        if piece and size + tensor.nbytes > PIECE_BYTES:
            save_file(piece, partial / f"piece-{pieces:03d}.safetensors")
            piece, size, pieces = {}, 0, pieces + 1
        piece[name] = tensor
        size += tensor.nbytes
    save_file(piece, partial / f"piece-{pieces:03d}.safetensors")
    (partial / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
    shutil.rmtree(final, ignore_errors=True)
    os.rename(partial, final)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return final


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in *folder*, or None."""
    found = sorted(p for p in folder.glob("step-*") if (p / "state.json").exists())
    return found[-1] if found else None


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read all tensors (on the CPU) and the state of a checkpoint."""
    tensors: dict[str, Tensor] = {}
    for piece in sorted(path.glob("*.safetensors")):
        tensors.update(load_file(piece))
    return tensors, json.loads((path / "state.json").read_text())
