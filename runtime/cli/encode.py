"""`cutoff encode`: a picture file into a stream.

JSON: bytes (of the file written), bpp, width, height, bundle, ms (object by stage: read, open, prepare, networks,
entropy, total of the encoder alone, write).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from runtime.cli.console import print_object, report, timed
from runtime.cli.options import add_bundle, add_engine_options, add_json, add_output, byte_count, engine_options
from runtime.cli.streams import naming
from runtime.codec import Codec
from runtime.encoder import Encoding
from runtime.errors import Incomplete, OutputError
from runtime.image_files import read_image
from runtime.whole_files import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("input", type=Path, metavar="IN", help="a picture: PNG, JPEG, WebP, BMP, TIFF or PPM")
    add_output(parser, "OUT.cut")
    parser.add_argument("--bytes", type=byte_count, metavar="N", help="write only the first N bytes of the stream")
    add_bundle(parser)
    add_engine_options(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Encode, and write the stream or its prefix."""
    ms: dict[str, float] = {}
    refuse_same_file(arguments.input, arguments.output)
    with timed(ms, "read"):
        image = read_image(arguments.input)
    with timed(ms, "open"):
        codec = Codec.open(arguments.bundle, **engine_options(arguments))
        codec.model.open_all()
    with naming(arguments.input):
        encoding = codec.encode(image)
    with naming(arguments.output):
        stream = prefix_of(encoding, arguments.bytes)
    ms.update(encoding.timings)
    with timed(ms, "write"):
        write_whole(arguments.output, stream)
    height, width = image.shape[:2]
    bpp = 8 * len(stream) / (width * height)
    name = codec.bundle.name
    if arguments.json:
        print_object({"bytes": len(stream), "bpp": bpp, "width": width, "height": height, "bundle": name, "ms": ms})
    else:
        size = f"{len(stream)} bytes, {bpp:.3f} bpp, {width}x{height}"
        report(f"{arguments.output}: {size}, bundle {name}, {ms['total']:.0f} ms", arguments.output)
    return 0


def prefix_of(encoding: Encoding, size_bytes: int | None) -> bytes:
    """Return the first *size_bytes* of the stream; None means all of it.

    Raises:
        Incomplete: such a prefix could not be decoded.
    """
    if size_bytes is None:
        return encoding.stream
    least = int(encoding.value.offsets[0])
    if size_bytes < least:
        raise Incomplete(f"{size_bytes} bytes cannot hold header and head segment, which take {least}")
    return encoding.stream[:size_bytes]


def refuse_same_file(source: Path, target: Path) -> None:
    """Refuse to overwrite what is read.

    Raises:
        OutputError: both are one file.
    """
    try:
        same = source.samefile(target)
    except (OSError, ValueError):
        return
    if same:
        raise OutputError(f"{target}: cannot be written: it is the input")
