"""Streams on disk, for the verbs that take one."""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from engines.bundle import shipped_bundles, stated_exact_id
from runtime.cli.options import engine_options
from runtime.codec import Codec
from runtime.errors import DataError, Incomplete, LimitExceeded, ModelMismatch, StreamError
from runtime.stream import HEADER_BYTES, Header, Limits, StreamParser


def read_prefix(path: Path, size_bytes: int | None = None, limits: Limits = Limits()) -> tuple[Header, bytes]:
    """Read the stream at *path*, or its first *size_bytes*; nothing beyond what its header claims.

    Raises:
        StreamError: the file cannot be read or is no stream, or its header is damaged.
        Incomplete: there is less than a header.
        LimitExceeded: the header claims more than *limits*.
    """
    try:
        with naming(path), path.open("rb") as file:
            beginning = file.read(HEADER_BYTES if size_bytes is None else min(size_bytes, HEADER_BYTES))
            header = _header(beginning, limits)
            end = header.stream_bytes if size_bytes is None else min(size_bytes, header.stream_bytes)
            return header, beginning + file.read(max(0, min(end, _largest(file, end)) - len(beginning)))
    except (OSError, ValueError) as fault:
        raise StreamError(f"{path}: cannot be read: {getattr(fault, 'strerror', None) or fault}") from fault


def open_codec(header: Header, arguments: argparse.Namespace) -> Codec:
    """Open the bundle that the arguments name, or else the one of this installation that the stream needs.

    Raises:
        ModelMismatch: no bundle of this installation has the stream's exact_id.
        BundleError, EngineError: see `Codec.open`.
    """
    if arguments.bundle is not None:
        return Codec.open(arguments.bundle, **engine_options(arguments))
    found = []
    for name in shipped_bundles():
        exact_id = stated_exact_id(name)
        if exact_id == header.exact_id:
            return Codec.open(name, **engine_options(arguments))
        found.append(f"{name} has {exact_id.hex()}")
    raise ModelMismatch(
        f"the stream needs a bundle with exact_id {header.exact_id.hex()}; {', '.join(found) or 'none is installed'}; "
        "name another bundle's folder with --bundle"
    )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put *path* before the message of errors about data."""
    try:
        yield
    except (DataError, Incomplete, LimitExceeded) as fault:
        raise type(fault)(f"{path}: {fault}") from fault


def _header(beginning: bytes, limits: Limits) -> Header:
    parser = StreamParser(limits)
    parser.feed(beginning)
    if parser.header is None:
        raise Incomplete(f"incomplete stream: {len(beginning)} bytes; the header alone takes {HEADER_BYTES}")
    return parser.header


def _largest(file: BinaryIO, otherwise: int) -> int:
    """Return the size of *file*, so that no more is asked for than there is; *otherwise* if it is a pipe or device."""
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else otherwise
