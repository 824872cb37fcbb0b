"""`cutoff trim`: a smaller stream that decodes like a prefix, made without decoding.

JSON: bytes (of the file written), bytes_before, complete (nothing was cut off).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from runtime.cli.console import print_object, report
from runtime.cli.options import add_json, add_output, byte_count
from runtime.cli.streams import naming, read_prefix
from runtime.stream import trim
from runtime.whole_files import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("input", type=Path, metavar="IN.cut", help="a stream, or any prefix of one")
    add_output(parser, "OUT.cut")
    parser.add_argument("--bytes", type=byte_count, required=True, metavar="N", help="size of the result, at most")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Trim, and write the result."""
    _, stream = read_prefix(arguments.input)
    with naming(arguments.input):
        trimmed = trim(stream, arguments.bytes)
    write_whole(arguments.output, trimmed)
    if arguments.json:
        print_object({"bytes": len(trimmed), "bytes_before": len(stream), "complete": trimmed == stream})
    else:
        report(f"{arguments.output}: {len(trimmed)} of {len(stream)} bytes", arguments.output)
    return 0
