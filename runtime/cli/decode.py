"""`cutoff decode`: a stream, or the beginning of one, into a picture file.

JSON: bytes_used, bytes_verified, bytes_total, steps, steps_total, planes (where the family has them), complete,
damaged, skipped (list of stages), missed, margin_ms (null without a deadline), ms (object by stage: read, open, warm if
there is a deadline, the decoder's stages, total of the decoder alone, write).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from runtime.cli.console import print_object, report, timed, warn
from runtime.cli.encode import refuse_same_file
from runtime.cli.options import add_engine_options, add_json, add_output, byte_count, positive_number
from runtime.cli.streams import naming, open_codec, read_prefix
from runtime.codec import Codec
from runtime.deadline import Deadline
from runtime.decoder import Picture
from runtime.errors import CutoffError
from runtime.image_files import format_of, write_image
from runtime.stream import Header


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("input", type=Path, metavar="IN.cut", help="a stream, or any prefix of one")
    add_output(parser, "OUT.png")
    parser.add_argument("--bytes", type=byte_count, metavar="N", help="read only the first N bytes")
    parser.add_argument(
        "--deadline-ms",
        type=positive_number,
        metavar="T",
        help="finish the picture within T ms, counted from when bundle and engines are open and warm",
    )
    parser.add_argument("--strict", action="store_true", help="use verified bytes only, and refuse a damaged body")
    parser.add_argument(
        "--bundle", metavar="NAME", help="a bundle's name or folder (default: the installed one that the stream needs)"
    )
    add_engine_options(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Decode, report, and write the picture."""
    ms: dict[str, float] = {}
    format_of(arguments.output)  # a wrong suffix is said before the work
    refuse_same_file(arguments.input, arguments.output)
    with timed(ms, "read"):
        header, prefix = read_prefix(arguments.input, arguments.bytes)
    with timed(ms, "open"), naming(arguments.input):
        codec = open_codec(header, arguments)
        codec.model.open_all()
    with naming(arguments.input):
        picture = _decode(codec, prefix, arguments, ms)
    ms.update(picture.timings)
    if picture.image is not None:
        with timed(ms, "write"):
            write_image(arguments.output, picture.image)
    _warn(arguments, picture)
    if arguments.json:
        print_object(_described(picture, ms))
    elif picture.image is not None:
        report(f"{arguments.output}: {_summary(header, picture)}", arguments.output)
    if picture.image is None:
        raise CutoffError(f"{arguments.input}: no picture could be made within {arguments.deadline_ms:g} ms")
    return 0


def _decode(codec: Codec, prefix: bytes, arguments: argparse.Namespace, ms: dict[str, float]) -> Picture:
    if arguments.deadline_ms is None:
        return codec.decode(prefix, strict=arguments.strict)
    with timed(ms, "warm"):
        codec.rehearse(prefix)
    picture = codec.decode(prefix, Deadline.after_ms(arguments.deadline_ms), strict=arguments.strict)
    codec.close()  # keeps the measured costs; those of a cold run would mislead
    return picture


def _warn(arguments: argparse.Namespace, picture: Picture) -> None:
    if picture.damaged:
        warn(
            f"{arguments.input}: damaged body: a checksum is wrong behind byte {picture.bytes_verified}; "
            f"the picture rests on the {picture.bytes_used} bytes before it"
        )
    if picture.missed and picture.image is not None and picture.margin_ms is not None:
        late_ms = -picture.margin_ms
        warn(f"{arguments.input}: the deadline of {arguments.deadline_ms:g} ms was missed by {late_ms:.1f} ms")


def _described(picture: Picture, ms: dict[str, float]) -> dict[str, Any]:
    planes = {} if picture.planes is None else {"planes": picture.planes}
    return {
        "bytes_used": picture.bytes_used,
        "bytes_verified": picture.bytes_verified,
        "bytes_total": picture.bytes_total,
        "steps": picture.steps,
        "steps_total": picture.steps_total,
        **planes,
        "complete": picture.complete,
        "damaged": picture.damaged,
        "skipped": picture.skipped,
        "missed": picture.missed,
        "margin_ms": picture.margin_ms,
        "ms": ms,
    }


def _summary(header: Header, picture: Picture) -> str:
    unit = "steps" if picture.planes is None else "planes"
    parts = [
        f"{header.width}x{header.height}",
        f"{picture.bytes_used} of {picture.bytes_total} bytes",
        f"{picture.steps:.2f} of {picture.steps_total} {unit}",
        "complete" if picture.complete else "not complete",
        f"{picture.timings['total']:.0f} ms",
    ]
    if picture.skipped:
        parts.append(f"skipped: {' '.join(picture.skipped)}")
    if picture.margin_ms is not None:
        parts.append(f"margin {picture.margin_ms:.1f} ms")
    return ", ".join(parts)
