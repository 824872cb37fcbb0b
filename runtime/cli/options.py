"""Options that several verbs share, and the types of their values."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from engines.open import ENGINES, PRECISIONS, available_cores

DEFAULT_BUNDLE = "dpict-edge"


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_engine_options(
    parser: argparse.ArgumentParser, engines: Sequence[str] = ENGINES, default: str = "auto"
) -> None:
    """Add --engine, --precision and --threads."""
    parser.add_argument(
        "--engine", choices=engines, default=default, help=f"back end of the networks (default: {default})"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of networks that may run in FP16 (default: auto, FP16 where the back end computes in it)",
    )
    parser.add_argument(
        "--threads",
        type=positive_int,
        metavar="N",
        help=f"CPU threads of a network's run (default: all cores, here {available_cores()})",
    )


class EngineOptions(TypedDict):
    """What `Codec.open` and `Model` take of `add_engine_options`."""

    engine: str
    threads: int | None
    precision: str


def engine_options(arguments: argparse.Namespace) -> EngineOptions:
    """Return the values of `add_engine_options`."""
    return EngineOptions(engine=arguments.engine, threads=arguments.threads, precision=arguments.precision)


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add --bundle with its default."""
    parser.add_argument(
        "--bundle",
        default=DEFAULT_BUNDLE,
        metavar="NAME",
        help=f"a bundle that comes with cutoff, or a bundle's folder (default: {DEFAULT_BUNDLE})",
    )


def add_output(parser: argparse.ArgumentParser, metavar: str) -> None:
    """Add -o."""
    parser.add_argument("-o", "--output", type=Path, required=True, metavar=metavar, help="the file to write")


def positive_int(text: str) -> int:
    """Read a whole number of at least 1."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return number


def byte_count(text: str) -> int:
    """Read a whole number of bytes, at least 0."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"must be a whole number of bytes, not {text!r}")
    return int(text)


def positive_number(text: str) -> float:
    """Read a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return number


def positive_numbers(text: str) -> tuple[float, ...]:
    """Read numbers above 0, separated by commas."""
    return tuple(positive_number(part) for part in text.split(","))
