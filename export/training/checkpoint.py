"""Checkpoints: a folder per step with safetensors pieces and a small JSON file, written beside and renamed.

Pieces stay below `PIECE_BYTES`, so that a checkpoint of any network can travel in parts.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from runtime.errors import UsageError

PIECE_BYTES = 15 << 20


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from.

    Attributes:
        tensors: by name, on the CPU: `model.`, `average.` and `adam.`, each with a network's role and parameter.
        stage, stage_step: where the run stood.
    """

    tensors: dict[str, Tensor]
    stage: str
    stage_step: int


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write `folder/step-NNNNNNN` and delete all but the newest *keep* checkpoints; an interrupted save leaves none.

    Args:
        step: of the whole run, by which checkpoints are ordered.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:07d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    piece: dict[str, Tensor] = {}
    size = pieces = 0
    for name in sorted(checkpoint.tensors):
        tensor = checkpoint.tensors[name].detach().cpu().contiguous()
        if piece and size + tensor.nbytes > PIECE_BYTES:
            save_file(piece, partial / f"piece-{pieces:03d}.safetensors")
            piece, size, pieces = {}, 0, pieces + 1
        piece[name] = tensor
        size += tensor.nbytes
    save_file(piece, partial / f"piece-{pieces:03d}.safetensors")
    state = {"step": step, "stage": checkpoint.stage, "stage_step": checkpoint.stage_step, "pieces": pieces + 1}
    (partial / "state.json").write_text(json.dumps(state, indent=1))
    shutil.rmtree(final, ignore_errors=True)
    os.rename(partial, final)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return final


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in *folder*, or None."""
    found = sorted(p for p in folder.glob("step-*") if (p / "state.json").exists())
    return found[-1] if found else None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        UsageError: it is damaged.
    """
    tensors: dict[str, Tensor] = {}
    try:
        state = json.loads((path / "state.json").read_text())
        pieces = sorted(path.glob("*.safetensors"))
        if len(pieces) != state.get("pieces", len(pieces)):  # older ones do not say how many there are
            raise ValueError(f"{len(pieces)} of {state['pieces']} pieces are there")
        for piece in pieces:
            tensors.update(load_file(piece))
        return Checkpoint(tensors, str(state["stage"]), int(state["stage_step"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as fault:
        hint = "without this folder the run goes on from the one before"
        raise UsageError(f"{path} is damaged: {fault!r}; {hint}") from fault
