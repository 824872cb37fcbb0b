"""`cutoff edge`: send a camera's pictures to a server; see docs/edge.md."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from edge_client.settings import load_edge_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--config", type=Path, required=True, metavar="EDGE.toml", help="the camera's settings")
    parser.add_argument("--check", action="store_true", help="check the settings and what they name; start nothing")


def run(arguments: argparse.Namespace) -> int:
    """Check, or run until SIGTERM.

    Raises:
        CutoffError: a setting is wrong, or something that it names is missing.
    """
    settings = load_edge_settings(arguments.config)
    if arguments.check:
        from edge_client.check import check

        print(check(settings))
        return 0
    from edge_client.client import Client
    from edge_client.log import set_up_log

    set_up_log(settings.log.level)
    asyncio.run(Client(settings).run())
    return 0
