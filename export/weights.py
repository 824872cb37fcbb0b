"""`python -m export weights`: the averaged weights of a run as one small file, to export or to train on from.

Weights are rounded to what bundles hold before anything is made of them, so that a bundle compresses well: those of
free graphs to eight bits behind the point, on residual branches, in h_a and in context networks to five; those of
h_s and mutual, which become integers, to float16; those of priors, which become tables, not at all. (Five bits on the
path that carries brightness cost 0.7 dB, on branches nothing that can be measured.) What a bundle holds already is not
stored again: the file says where it is.
"""

from __future__ import annotations

import argparse
import bz2
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from engines.bundle import Bundle
from export.finite import require_finite
from export.training.checkpoint import load_checkpoint, newest_checkpoint
from export.training.config import TrainingSettings
from export.training.families import make_family
from runtime.errors import BundleError, OutputError, UsageError
from runtime.settings import load_settings

_PRIORS = ("prior", "prior_scalable")
# Rounded to float16 and no further. Not all that becomes exact graphs: crr is rounded as context networks are.
_HALVES = ("h_s", "h_s_scalable", "mutual")
_COARSE = ("h_a", "h_a_scalable", "crr", "cdr")
_FREE_BITS, _BRANCH_BITS = 8, 5
_HALF_BITS = 10
_MAGIC = b"BZh"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("config", type=Path, help="settings the model was trained with")
    parser.add_argument("--run", type=Path, help="folder of the training run (default: runs/NAME)")
    parser.add_argument("--bundle", help="a bundle made of the same run: what it holds is left out of the file")
    parser.add_argument("--leave-out", action="append", default=[], metavar="ROLE", help="a role to leave out")
    parser.add_argument("--out", type=Path, required=True, help="file to write, NAME.safetensors.bz2")


def run(arguments: argparse.Namespace) -> None:
    """Write the weights and say how long they were trained."""
    out = Path(os.path.realpath(arguments.out))
    if os.path.isdir(out):
        raise OutputError(f"{arguments.out} is a folder; --out names a file")
    settings = load_settings(TrainingSettings, arguments.config)
    weights, steps = averaged_weights(settings, arguments.run or Path("runs") / settings.name)
    left_out = set(arguments.leave_out)
    roles = {name.partition(".")[0] for name in (*weights, *make_family(settings).networks.state_dict())}
    if unknown := sorted(left_out - roles):
        raise UsageError(f"there is no {', '.join(unknown)} to leave out; there are {', '.join(sorted(roles))}")
    stored = {k: as_stored(k, v) for k, v in weights.items() if k.partition(".")[0] not in left_out}
    require_finite("weights as a file holds them", stored)
    metadata = {"steps": json.dumps(steps)}
    if arguments.bundle is not None:
        bundle = Bundle.open(arguments.bundle)
        places = _places_in(bundle, stored)
        stored = {name: tensor for name, tensor in stored.items() if name not in places}
        metadata |= {
            "bundle": str(arguments.bundle),
            "bundle_hash": bundle.bundle_hash,
            "in_bundle": json.dumps(places),
        }
    content = bz2.compress(save(stored, metadata))
    _write(out, content)
    print(json.dumps({"weights": str(arguments.out), "bytes": len(content), "trained_steps": steps}))


def _write(out: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".weights-", dir=out.parent) as folder:
            partial = Path(folder) / "file"
            partial.write_bytes(content)
            partial.replace(out)
    except OSError as fault:
        raise OutputError(f"{out}: {fault.strerror or fault}") from fault


def _places_in(bundle: Bundle, stored: dict[str, Tensor]) -> dict[str, list[str]]:
    """Return, of those tensors that a graph of *bundle* holds bit by bit, the graph's role and its name for them."""
    known: dict[bytes, list[str]] = {}
    for role in bundle.graphs:
        for name, values in _constants(bundle, role).items():
            known.setdefault(_key(values), [role, name])
    found = {name: known.get(_key(tensor.numpy())) for name, tensor in stored.items()}
    return {name: place for name, place in found.items() if place is not None}


def _constants(bundle: Bundle, role: str) -> dict[str, NDArray[np.generic]]:
    graph = onnx.load_from_string(bundle.read(bundle.graphs[role].file)).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _key(values: NDArray[np.generic]) -> bytes:
    return f"{values.dtype}{values.shape}".encode() + values.tobytes()


def averaged_weights(settings: TrainingSettings, run_folder: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return a run's newest weights, averaged where a stage is under way, and the steps of every stage so far.

    Raises:
        UsageError: the run has no checkpoint, or its newest one is damaged or in a stage that the settings do not have.
    """
    newest = newest_checkpoint(run_folder)
    if newest is None:
        raise UsageError(f"{run_folder} has no checkpoint; train first")
    checkpoint = load_checkpoint(newest)
    tensors, stage = checkpoint.tensors, checkpoint.stage
    if stage not in settings.stages:
        raise UsageError(f"{newest} is in stage {stage!r}, which the settings do not have")
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    weights |= {k.removeprefix("average."): v for k, v in tensors.items() if k.startswith("average.")}
    names = list(settings.stages)
    done = {name: settings.stages[name].steps for name in names[: names.index(stage)]}
    return weights, {**done, stage: checkpoint.stage_step}


def load_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Read a weights file, or any safetensors file, as float32 tensors, and the steps of every stage.

    Raises:
        UsageError: it cannot be read, or needs a bundle that is not there.
    """
    try:
        content = file.read_bytes()
        content = bz2.decompress(content) if content.startswith(_MAGIC) else content
        tensors = {name: tensor.float() for name, tensor in load(content).items()}
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
        steps = {str(stage): int(count) for stage, count in json.loads(metadata.get("steps", "{}")).items()}
        if "in_bundle" in metadata:
            bundle = Bundle.open(metadata["bundle"])
            if bundle.bundle_hash != metadata["bundle_hash"]:
                raise UsageError(f"{file}: the rest of these weights is in another version of bundle {bundle.name}")
            tensors |= _from_bundle(bundle, json.loads(metadata["in_bundle"]))
    except (OSError, EOFError, SafetensorError, BundleError, ValueError) as fault:
        raise UsageError(f"{file}: {fault}") from fault
    except (AttributeError, KeyError, TypeError) as fault:  # JSON of another form
        raise UsageError(f"{file}: its metadata are not those of a weights file: {fault!r}") from fault
    return tensors, steps


def _from_bundle(bundle: Bundle, places: dict[str, list[str]]) -> dict[str, Tensor]:
    constants = {role: _constants(bundle, role) for role in {role for role, _ in places.values()}}
    return {
        name: torch.from_numpy(constants[role][constant].astype(np.float32))
        for name, (role, constant) in places.items()
    }


def networks_with(settings: TrainingSettings, weights: dict[str, Tensor]) -> nn.Module:
    """Return the family's networks with *weights*, rounded as a weights file holds them.

    Roles that a family calls optional may be absent from *weights*; they stay as they are made, and are named in
    `absent` of what is returned.

    Raises:
        UsageError: the weights are of other networks, or not finite.
    """
    networks = make_family(settings).networks
    found = {k: as_stored(k, v).float() for k, v in weights.items()}
    require_finite("weights as a file holds them", found)
    absent = set(getattr(networks, "optional_roles", ())) - {name.partition(".")[0] for name in found}
    found |= {k: v for k, v in networks.state_dict().items() if k.partition(".")[0] in absent}
    if absent:
        networks.absent = frozenset(absent)  # type: ignore[assignment]
    try:
        networks.load_state_dict(found)
    except RuntimeError as fault:
        raise UsageError(f"the weights are not of these networks: {str(fault).splitlines()[1].strip()}") from fault
    return networks.eval()


def as_stored(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor as a weights file holds it: float16, or float32 where it becomes a table."""
    role = name.partition(".")[0]
    if role in _PRIORS:
        return tensor.contiguous()
    half = tensor.to(torch.float16).contiguous()
    if role in _HALVES:
        return half
    coarse = role in _COARSE or "blocks" in name or "branch" in name
    return _rounded(half, _BRANCH_BITS if coarse else _FREE_BITS)


def _rounded(half: Tensor, kept: int) -> Tensor:
    """Return float16 values with *kept* bits behind the point, rounded to the nearest, halves to even."""
    bits = half.numpy().view(np.uint16).astype(np.uint32)
    drop = _HALF_BITS - kept
    bits += (1 << (drop - 1)) - 1 + (bits >> drop & 1)
    return torch.from_numpy((bits >> drop << drop).astype(np.uint16).view(np.float16))
