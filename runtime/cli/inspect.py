"""`cutoff inspect`: a stream's header and slices; nothing is decoded, and no bundle is opened.

JSON: version, exact_id, width, height, grey, trimmed, bytes (in the file), bytes_total (by the header), bytes_verified,
bpp (of the whole stream), complete, damaged, slices (list of {slice, offset, bytes, state}, checksums included).

A slice is `header`, `head` or `frame I`. Its state is `verified`; `unfinished` if the file ends inside; `missing` if it
ends before; `damaged` if the checksum is wrong; `unused` behind damage.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.cli.console import print_object, print_table
from runtime.cli.options import add_json
from runtime.cli.streams import naming, read_prefix
from runtime.stream import FRAME_BYTES, HEADER_BYTES, VERSION, Header, StreamParser, framed_bytes


@dataclass(frozen=True)
class Slice:
    """A part of a stream with a checksum of its own: where it lies, checksum included, and what became of it."""

    slice: str
    offset: int
    bytes: int
    state: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("input", type=Path, metavar="IN.cut", help="a stream, or any prefix of one")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what the stream says of itself."""
    parser = StreamParser()
    header, stream = read_prefix(arguments.input)
    with naming(arguments.input):
        parser.feed(stream)
    facts = {
        "version": VERSION,
        "exact_id": header.exact_id.hex(),
        "width": header.width,
        "height": header.height,
        "grey": header.grey,
        "trimmed": header.trimmed,
        "bytes": len(stream),
        "bytes_total": header.stream_bytes,
        "bytes_verified": parser.bytes_verified,
        "bpp": 8 * header.stream_bytes / (header.width * header.height),
        "complete": parser.complete,
        "damaged": parser.damaged,
    }
    slices = list(slices_of(header, parser))
    if arguments.json:
        print_object({**facts, "slices": [dataclasses.asdict(one) for one in slices]})
        return 0
    for key, value in facts.items():
        print(f"{key:<15} {_written(value)}")
    print()
    rows = [(one.slice, str(one.offset), str(one.bytes), one.state) for one in slices]
    print_table(("slice", "offset", "bytes", "state"), rows)
    return 0


def slices_of(header: Header, parser: StreamParser) -> Iterator[Slice]:
    """Yield the slices that *header* announces, as *parser*, which was fed the stream, found them."""
    received = parser.received
    yield Slice("header", 0, HEADER_BYTES, "verified")
    head_state = "verified" if parser.head is not None else _state_at_end(HEADER_BYTES, received)
    yield Slice("head", HEADER_BYTES, header.body_start - HEADER_BYTES, head_state)
    for number, start in enumerate(range(0, header.body_bytes, FRAME_BYTES)):
        end = min(start + FRAME_BYTES, header.body_bytes)
        offset = header.body_start + framed_bytes(start)
        if end <= parser.verified:
            state = "verified"
        elif parser.damaged:
            state = "damaged" if start == parser.verified else "unused"
        else:
            state = _state_at_end(offset, received)
        yield Slice(f"frame {number}", offset, framed_bytes(end) - framed_bytes(start), state)


def _state_at_end(offset: int, received: int) -> str:
    return "unfinished" if received > offset else "missing"


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
