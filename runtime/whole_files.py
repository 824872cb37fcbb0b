"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from runtime.errors import OutputError


def write_whole(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write *content* to a temporary neighbour of *path* and rename it; what stood at *path* stays until then.

    A link is followed; its target is what gets replaced. A device or pipe is written to as it is.
    If it is to be *durable*, it is on the disk when this returns, and survives a loss of power.

    Raises:
        OutputError: it cannot be written; nothing was left behind, and an earlier file is as it was.
    """
    try:
        earlier = _mode(path)
        if earlier is not None and stat.S_ISDIR(earlier):
            raise OutputError(f"{path}: cannot be written: it is a folder")
        if earlier is not None and not stat.S_ISREG(earlier):
            path.write_bytes(content)  # by its own name: behind the links of /dev/stdout lies none
        else:
            _replace(Path(os.path.realpath(path)), content, earlier, durable=durable)
    except OSError as fault:
        raise OutputError(f"{path}: cannot be written: {fault.strerror or fault}") from fault
    except ValueError as fault:  # a zero byte in the name
        raise OutputError(f"{str(path)!r}: cannot be written: {fault}") from fault


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _replace(target: Path, content: bytes, earlier: int | None, *, durable: bool) -> None:
    partial = target.with_name(f".cutoff-{secrets.token_hex(8)}.part")
    # The kernel applies the mask. What gets an earlier file's permissions is nobody else's until then.
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if earlier is None else 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if earlier is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(earlier))
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, target)
        if durable:
            _sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)  # gone already if it was renamed


def _sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
