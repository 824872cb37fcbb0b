"""`python -m export bundle`: a trained model becomes a bundle.

weights -> tables, exact h_s, free graphs -> files -> which graphs may run in FP16 -> manifest with hashes -> folder or
file, renamed into place
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from export.bundle_writer import destination, write_bundle
from export.families import EXPORTERS
from export.half import offer_half
from export.trained import untrained_roles
from export.training.config import TrainingSettings
from export.training.pictures import held_out_pictures
from export.weights import averaged_weights, load_weights, networks_with
from runtime.errors import ConfigurationError, UsageError
from runtime.settings import load_settings

_FP16_PICTURES = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("config", type=Path, help="settings the model was trained with")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--run", type=Path, help="folder of the training run (default: runs/NAME)")
    source.add_argument("--weights", type=Path, help="weights file to export instead of a run")
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="calibration takes held-out ones")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder or .bundle file to write; replaced if it is a bundle"
    )
    parser.add_argument("--version", default="0.1.0")
    decoders = {family: exporter.syntheses for family, exporter in EXPORTERS.items() if exporter.syntheses}
    choices = [name for names in decoders.values() for name in names]
    usual = ", ".join(f"{names[0]} of {family}" for family, names in decoders.items())
    parser.add_argument("--synthesis", choices=choices, help=f"which decoder ships (default: {usual})")


def run(arguments: argparse.Namespace) -> None:
    """Make the bundle and print what was measured."""
    settings = load_settings(TrainingSettings, arguments.config)
    if settings.family not in EXPORTERS:
        raise ConfigurationError(f"family {settings.family!r} is unknown; there are {', '.join(sorted(EXPORTERS))}")
    exporter = EXPORTERS[settings.family]
    synthesis = exporter.synthesis(arguments.synthesis)
    # What can be refused is, before minutes of calibration.
    destination(arguments.out, settings.name, arguments.version, settings.family)
    if arguments.weights is not None:
        weights, trained = load_weights(arguments.weights)
    else:
        weights, trained = averaged_weights(settings, arguments.run or Path("runs") / settings.name)
    networks = networks_with(settings, weights)
    if untrained := untrained_roles(settings, weights, trained, exporter.shipped_roles(networks, synthesis)):
        message = f"{', '.join(untrained)} would ship as made: train a stage that trains them"
        if exporter.syntheses:
            message += f", or ship another decoder (--synthesis {' | '.join(exporter.syntheses)})"
        raise UsageError(message)
    held_out = held_out_pictures(arguments.pictures, settings.patch, settings.held_out)
    torch.set_num_threads(1)
    content = exporter.content(networks, settings, held_out, synthesis)
    offer_half(content, settings, held_out[:_FP16_PICTURES])
    content.measured["trained_steps"] = trained
    folder = write_bundle(arguments.out, settings.name, arguments.version, settings.family, content)
    short = content.measured | {"fp16": {role: found["loss_db"] for role, found in content.measured["fp16"].items()}}
    print(json.dumps({"bundle": str(folder), **short}, indent=1))
