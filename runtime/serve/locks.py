"""Locks on files: whoever holds one has it until it lets go or dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def hold(file: Path) -> int | None:
    """Lock *file*, which is made if it is not there; return the handle to close in the end, None if it is locked.

    Raises:
        OSError: it cannot be opened or locked.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())  # for people: who holds it
    except OSError as fault:
        os.close(handle)
        if isinstance(fault, BlockingIOError):
            return None
        raise
    return handle
