"""`cutoff bundles`: the bundles that come with this installation.

JSON: bundles (list of {name, version, family, exact_id, graphs}).
"""

from __future__ import annotations

import argparse

from engines.bundle import Bundle, shipped_bundles
from runtime.cli.console import print_object, print_table
from runtime.cli.options import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """List the bundles."""
    opened = [Bundle.open(name) for name in shipped_bundles()]
    if arguments.json:
        keys = ("name", "version", "family")
        print_object(
            {
                "bundles": [
                    {
                        **{key: getattr(bundle, key) for key in keys},
                        "exact_id": bundle.exact_id.hex(),
                        "graphs": sorted(bundle.graphs),
                    }
                    for bundle in opened
                ]
            }
        )
        return 0
    rows = [(b.name, b.version, b.family, b.exact_id.hex(), " ".join(sorted(b.graphs))) for b in opened]
    print_table(("bundle", "version", "family", "exact_id", "graphs"), rows)
    return 0
