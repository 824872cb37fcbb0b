"""What each part of ctc is worth: bundles of one training, with one part more each.

    python benchmarks/ablation_ctc.py configs/ctc/whole.toml --weights CTC --base DPICT --pictures TRAINING --out FOLDER
    cutoff eval rd --bundle FOLDER/plain --bundle FOLDER/crr --bundle FOLDER/cdr --bundle FOLDER/whole --images KODAK

    plain    no context: what dpict makes of the same networks
    crr      probabilities from context
    cdr      crr, and refined latents, before the g_s of dpict
    whole    crr, refined latents, and the g_s that was trained on them

Prints what each export measured on held-out training pictures.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from export.bundle_writer import write_bundle
from export.families.ctc import export_ctc
from export.training.config import TrainingSettings
from export.training.ctc import Ctc
from export.training.pictures import load_pictures, split_held_out
from export.weights import load_weights, networks_with
from runtime.settings import load_settings

NEVER = 9.0  # planes missing


def main() -> None:
    """Write the four bundles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="settings of the trained model")
    parser.add_argument("--weights", type=Path, required=True, help="its weights file")
    parser.add_argument("--base", type=Path, required=True, help="weights file of the dpict model that it started from")
    parser.add_argument(
        "--pictures", type=Path, nargs="+", required=True, help="those of training; held-out ones count"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the bundles")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = load_settings(TrainingSettings, arguments.config)
    if settings.options.get("refined", 0.0) >= NEVER:
        raise SystemExit(f"{arguments.config}: option `refined` leaves out cdr, which is one of the parts")
    pictures, _ = split_held_out(load_pictures(arguments.pictures, settings.patch), settings.held_out)
    trained, _ = load_weights(arguments.weights)
    base = {k: v for k, v in load_weights(arguments.base)[0].items() if k.startswith("g_s_cuts.")}
    without_crr = {"segments": [], "refined": NEVER}
    without_cdr = settings.options | {"refined": NEVER}
    variants = {
        "plain": (without_crr, base),
        "crr": (without_cdr, base),
        "cdr": (settings.options, base),
        "whole": (settings.options, {}),
    }
    for name, (options, synthesis) in variants.items():
        one = replace(settings, name=name, options=options)
        networks = networks_with(one, trained | synthesis)
        assert isinstance(networks, Ctc)
        content = export_ctc(networks, one, pictures, "cuts")
        folder = write_bundle(arguments.out / name, name, "0", one.family, content)
        print(json.dumps({"bundle": str(folder), **content.measured}, indent=1), flush=True)


if __name__ == "__main__":
    main()
