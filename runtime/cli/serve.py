"""cutoff serve: the server for cameras."""

from __future__ import annotations

import argparse
from pathlib import Path

from runtime.errors import MissingExtra


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings, a TOML file")
    parser.add_argument("--ray", action="store_true", help="as several servers, under Ray Serve")
    parser.add_argument("--check", action="store_true", help="check the settings and end")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    try:
        from runtime.serve import listen
    except ModuleNotFoundError as fault:
        raise MissingExtra(f"`cutoff serve` needs {fault.name}: pip install '.[serve]' in the checkout") from fault
    return listen.command(arguments.config, check_only=arguments.check, ray=arguments.ray)
