"""`python -m export train | weights | bundle | import`: make models. The only folder that imports torch."""

from __future__ import annotations

import os

# Waiting threads must sleep: spinning ones take the core from whoever has the work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import sys

from runtime.errors import CutoffError


def main() -> int:
    """Run one of the commands; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    from export import bundle, weights
    from export.checkpoints import command as checkpoints
    from export.training import command as train

    train.add_arguments(commands.add_parser("train", help="train a model"))
    weights.add_arguments(commands.add_parser("weights", help="keep the weights of a run in one small file"))
    bundle.add_arguments(commands.add_parser("bundle", help="make a bundle of a trained model"))
    checkpoints.add_arguments(commands.add_parser("import", help="make a bundle of somebody else's checkpoint"))
    arguments = parser.parse_args()
    try:
        runs = {"train": train.run, "weights": weights.run, "bundle": bundle.run, "import": checkpoints.run}
        runs[arguments.command](arguments)
    except CutoffError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return fault.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
