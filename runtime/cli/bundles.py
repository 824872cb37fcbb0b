"""`cutoff bundles`: the bundles that come with this installation, or one of them as a folder of plain files.

JSON: bundles (list of {name, version, family, exact_id, graphs}); with --unpack: bundle, folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from engines.bundle import Bundle, shipped_bundles, unpack
from runtime.cli.console import print_object, print_table
from runtime.cli.options import add_json
from runtime.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--unpack", metavar="BUNDLE", help="write this one, a name or a file, as a folder: see --out")
    parser.add_argument("--out", type=Path, help="folder to make (default: the bundle's name)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """List the bundles, or unpack one."""
    if arguments.unpack is not None:
        return _unpack(arguments)
    if arguments.out is not None:
        raise UsageError("--out goes with --unpack")
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


def _unpack(arguments: argparse.Namespace) -> int:
    folder = arguments.out or Path(Path(arguments.unpack).stem)
    unpack(arguments.unpack, folder)
    if arguments.json:
        print_object({"bundle": arguments.unpack, "folder": str(folder)})
    else:
        print(f"{folder}: bundle {arguments.unpack}")
    return 0
