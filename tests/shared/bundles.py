"""Bundles as folders, for tests that change them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from engines.bundle import MANIFEST, bundle_hash, exact_id, unpack


def unpacked(name: str, folder: Path) -> Path:
    """Unpack a shipped bundle as *folder*, and return it."""
    unpack(name, folder)
    return folder


def rehash(folder: Path, **fields: Any) -> None:
    """Change *fields* of the manifest in *folder*; make its sizes, hashes and ids those of the files that are there."""
    manifest = json.loads((folder / MANIFEST).read_text()) | fields
    files = {entry["path"]: (folder / entry["path"]).read_bytes() for entry in manifest["files"]}
    for entry in manifest["files"]:
        content = files[entry["path"]]
        entry.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    manifest["exact_id"] = exact_id({path: files[path] for path in manifest["exact_files"]}).hex()
    manifest["bundle_hash"] = bundle_hash(files)
    (folder / MANIFEST).write_text(json.dumps(manifest))
