"""`python -m export import`: a checkpoint of somebody else's training becomes a bundle.

checkpoint -> tensors -> networks of a known origin -> preview fitted -> the family's exporter -> bundle
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch

from engines.bundle import SUFFIX
from export.bundle_writer import destination, write_bundle
from export.checkpoints.assemble import family_networks
from export.checkpoints.origins import ORIGINS, networks_of
from export.checkpoints.read import read_checkpoint
from export.families import EXPORTERS
from export.training.config import TrainingSettings
from export.training.pictures import cropped, held_out_pictures

_CALIBRATION = 24
_SIDE = 128  # of pictures, at least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("checkpoint", type=Path, help=f"state dict of {', '.join(ORIGINS)}: safetensors or torch.save")
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="some are calibrated and measured on")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder or .bundle file to write; replaced if it is a bundle"
    )
    parser.add_argument("--name", help="of the bundle (default: that of --out, without .bundle)")
    parser.add_argument("--version", default="0.1.0")


def run(arguments: argparse.Namespace) -> None:
    """Make the bundle and print what was measured."""
    imported = networks_of(read_checkpoint(arguments.checkpoint))
    name = arguments.name or os.path.basename(os.path.abspath(arguments.out)).removesuffix(SUFFIX)
    destination(arguments.out, name, arguments.version, imported.family)
    pictures = held_out_pictures(arguments.pictures, _SIDE, _CALIBRATION)
    torch.set_num_threads(1)
    networks = family_networks(imported, [cropped(picture, 64) for picture in pictures[::2]])
    settings = TrainingSettings(name, imported.family, "imported", {})
    content = EXPORTERS[imported.family].content(networks, settings, pictures, "plain")
    content.measured |= {"origin": imported.origin, "tensors_left_out": len(imported.left_out)}
    folder = write_bundle(arguments.out, settings.name, arguments.version, settings.family, content)
    print(json.dumps({"bundle": str(folder), **content.measured}, indent=1))
