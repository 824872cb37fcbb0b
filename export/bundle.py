"""`python -m export bundle`: a trained model becomes a bundle.

weights -> tables, exact h_s, free graphs -> files -> which graphs may run in FP16 -> manifest with hashes -> folder,
renamed into place
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from export.bundle_writer import write_bundle
from export.families import EXPORTERS
from export.half import offer_half
from export.training.config import TrainingSettings
from export.training.pictures import held_out_pictures
from export.weights import averaged_weights, load_weights, networks_with
from runtime.errors import ConfigurationError
from runtime.settings import load_settings

_FP16_PICTURES = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("config", type=Path, help="settings the model was trained with")
    parser.add_argument("--run", type=Path, help="folder of the training run (default: runs/NAME)")
    parser.add_argument("--weights", type=Path, help="weights file to export instead of a run")
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="calibration takes held-out ones")
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to write; replaced if it is a bundle")
    parser.add_argument("--version", default="0.1.0")
    parser.add_argument("--synthesis", choices=("cuts", "paper"), default="cuts", help="which decoder ships")


def run(arguments: argparse.Namespace) -> None:
    """Make the bundle and print what was measured."""
    settings = load_settings(TrainingSettings, arguments.config)
    if settings.family not in EXPORTERS:
        raise ConfigurationError(f"family {settings.family!r} is unknown; there are {', '.join(sorted(EXPORTERS))}")
    if arguments.weights is not None:
        weights, trained = load_weights(arguments.weights)
    else:
        weights, trained = averaged_weights(settings, arguments.run or Path("runs") / settings.name)
    networks = networks_with(settings, weights)
    held_out = held_out_pictures(arguments.pictures, settings.patch, settings.held_out)
    torch.set_num_threads(1)
    content = EXPORTERS[settings.family](networks, settings, held_out, arguments.synthesis)
    offer_half(content, settings, held_out[:_FP16_PICTURES])
    content.measured["trained_steps"] = trained
    folder = write_bundle(arguments.out, settings.name, arguments.version, settings.family, content)
    short = content.measured | {"fp16": {role: found["loss_db"] for role, found in content.measured["fp16"].items()}}
    print(json.dumps({"bundle": str(folder), **short}, indent=1))
