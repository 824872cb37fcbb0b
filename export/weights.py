"""`python -m export weights`: the averaged weights of a run as one small file, to export or to train on from.

Weights of free graphs are kept as float16, those that become exact graphs and tables as float32.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from export.training.checkpoint import load_checkpoint, newest_checkpoint
from export.training.config import TrainingSettings
from export.training.families import make_family
from runtime.errors import OutputError, UsageError
from runtime.settings import load_settings

EXACT_ROLES = ("h_s", "prior")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("config", type=Path, help="settings the model was trained with")
    parser.add_argument("--run", type=Path, help="folder of the training run (default: runs/NAME)")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")


def run(arguments: argparse.Namespace) -> None:
    """Write the weights and say how long they were trained."""
    settings = load_settings(TrainingSettings, arguments.config)
    weights, steps = averaged_weights(settings, arguments.run or Path("runs") / settings.name)
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        partial = arguments.out.with_name(f".{arguments.out.name}.partial")
        save_file({k: _stored(k, v) for k, v in weights.items()}, partial, {"steps": json.dumps(steps)})
        partial.replace(arguments.out)
    except (OSError, SafetensorError) as fault:
        raise OutputError(f"{arguments.out}: {fault}") from fault
    print(json.dumps({"weights": str(arguments.out), "bytes": arguments.out.stat().st_size, "trained_steps": steps}))


def averaged_weights(settings: TrainingSettings, run_folder: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return a run's newest weights, averaged where a stage is under way, and the steps of every stage so far.

    Raises:
        UsageError: the run has no checkpoint.
    """
    newest = newest_checkpoint(run_folder)
    if newest is None:
        raise UsageError(f"{run_folder} has no checkpoint; train first")
    tensors, state = load_checkpoint(newest)
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    weights |= {k.removeprefix("average."): v for k, v in tensors.items() if k.startswith("average.")}
    names = list(settings.stages)
    done = {name: settings.stages[name].steps for name in names[: names.index(state["stage"])]}
    return weights, {**done, state["stage"]: state["stage_step"]}


def load_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Read a weights file as float32 tensors, and the steps of every stage.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with safe_open(file, "pt") as opened:
            names = list(opened.keys())
            steps = json.loads((opened.metadata() or {}).get("steps", "{}"))
            return {name: opened.get_tensor(name).float() for name in names}, steps
    except (OSError, SafetensorError, ValueError) as fault:
        raise UsageError(f"{file}: {fault}") from fault


def networks_with(settings: TrainingSettings, weights: dict[str, Tensor]) -> nn.Module:
    """Return the family's networks with *weights*, rounded as a weights file holds them.

    Raises:
        UsageError: the weights are of other networks.
    """
    networks = make_family(settings).networks
    try:
        networks.load_state_dict({k: _stored(k, v).float() for k, v in weights.items()})
    except RuntimeError as fault:
        raise UsageError(f"the weights are not of these networks: {str(fault).splitlines()[1].strip()}") from fault
    return networks.eval()


def _stored(name: str, tensor: Tensor) -> Tensor:
    return tensor.contiguous() if name.partition(".")[0] in EXACT_ROLES else tensor.to(torch.float16).contiguous()
