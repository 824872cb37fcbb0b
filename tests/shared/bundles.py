"""Shipped bundles as folders, for tests that change them."""

from __future__ import annotations

from pathlib import Path

from engines.bundle import unpack


def unpacked(name: str, folder: Path) -> Path:
    """Unpack a shipped bundle as *folder*, and return it."""
    unpack(name, folder)
    return folder
