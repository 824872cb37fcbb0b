"""Shipped bundles as folders, for tests that change them."""

from __future__ import annotations

import zipfile
from pathlib import Path

from engines.bundle import SHIPPED, SUFFIX


def unpacked(name: str, folder: Path) -> Path:
    """Unpack a shipped bundle as *folder*, and return it."""
    with zipfile.ZipFile(SHIPPED / f"{name}{SUFFIX}") as archive:
        archive.extractall(folder)
    return folder
