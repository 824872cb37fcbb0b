"""Bundles: a folder with everything a device needs to run one trained model.

    manifest.json     what the bundle is, and size and SHA-256 of every other file
    graphs/*.onnx     one network each
    tables/*.npz      integer tables
    kat/*.npz         known answers of graphs
    MODEL_CARD.md     data, training, cost, results; for people, neither listed nor hashed

`Bundle.open` reads every file once, checks it, and keeps the bytes: no parser ever sees a byte that was not verified.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from engines.errors import BundleError

SCHEMA = 1
MANIFEST = "manifest.json"
SHIPPED = Path(__file__).parent / "bundles"
_LARGEST_FILE = 1 << 30


@dataclass(frozen=True)
class GraphSpec:
    """What the manifest says of one graph.

    Attributes:
        role: what the graph is for (g_a, g_s, h_a, h_s, preview, ...).
        file: its path in the bundle.
        exact: its output must be bit-identical everywhere.
        inputs, outputs: tensor names in order, all float32 (B, C, H, W).
        known_answers: path of the file of known answers, or None.
    """

    role: str
    file: str
    exact: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    known_answers: str | None


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory.

    Attributes:
        name, version, family: what it is.
        exact_id: 8 bytes over the exact graphs and tables; a stream names it in its header.
        bundle_hash: hexadecimal SHA-256 over all files; names caches.
        settings: what the family needs to know beside graphs and tables.
        graphs: by role.
        where: the folder it came from.
    """

    name: str
    version: str
    family: str
    exact_id: bytes
    bundle_hash: str
    settings: Mapping[str, Any]
    graphs: Mapping[str, GraphSpec]
    where: Path
    _files: Mapping[str, bytes]

    @classmethod
    def open(cls, name_or_path: str | Path) -> Bundle:
        """Read a shipped bundle by name, or any bundle by its folder.

        Raises:
            BundleError: there is none, a file is missing or differs from the manifest, or the manifest is unreadable.
        """
        folder = _find(name_or_path)
        manifest = _read_manifest(folder)
        files = {}
        for entry in manifest["files"]:
            files[entry["path"]] = _read_verified(folder, entry)
        graphs = {role: _graph_spec(role, spec, files) for role, spec in manifest["graphs"].items()}
        exact_paths = manifest["exact_files"]
        for path in [*exact_paths, *(g.file for g in graphs.values() if g.exact)]:
            if not isinstance(path, str) or path not in files or path not in exact_paths:
                raise BundleError(f"{folder}: exact file {path!r} is not among the manifest's exact files")
        bundle = cls(
            name=manifest["name"],
            version=manifest["version"],
            family=manifest["family"],
            exact_id=exact_id({path: files[path] for path in exact_paths}),
            bundle_hash=bundle_hash(files),
            settings=manifest["settings"],
            graphs=graphs,
            where=folder,
            _files=files,
        )
        if bundle.exact_id.hex() != manifest["exact_id"]:
            raise BundleError(f"{folder}: exact_id {manifest['exact_id']} does not belong to its exact files")
        if bundle.bundle_hash != manifest["bundle_hash"]:
            raise BundleError(f"{folder}: bundle_hash does not belong to its files")
        return bundle

    def read(self, path: str) -> bytes:
        """Return the verified bytes of one file.

        Raises:
            BundleError: the bundle has no such file.
        """
        try:
            return self._files[path]
        except KeyError:
            raise BundleError(f"{self.where}: the bundle has no file {path!r}") from None


def exact_id(files: Mapping[str, bytes]) -> bytes:
    """Return the 8 bytes that name a set of exact files: the start of SHA-256 over sorted (path, SHA-256) pairs."""
    return bytes.fromhex(_digest_of_digests(files))[:8]


def bundle_hash(files: Mapping[str, bytes]) -> str:
    """Return the hexadecimal SHA-256 over sorted (path, SHA-256) pairs of all files but the manifest."""
    return _digest_of_digests(files)


def shipped_bundles() -> list[str]:
    """Return the names of the bundles that come with this installation."""
    return sorted(p.parent.name for p in SHIPPED.glob(f"*/{MANIFEST}"))


def _digest_of_digests(files: Mapping[str, bytes]) -> str:
    lines = "".join(f"{path} {hashlib.sha256(files[path]).hexdigest()}\n" for path in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if (path / MANIFEST).is_file():
        return path
    if str(name_or_path) in shipped_bundles():
        return SHIPPED / str(name_or_path)
    raise BundleError(
        f"no bundle {str(name_or_path)!r}: neither a folder with a {MANIFEST} nor one of the shipped "
        f"({', '.join(shipped_bundles()) or 'none'})"
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise BundleError(f"{folder / MANIFEST}: {fault}") from fault
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise BundleError(f"{folder / MANIFEST}: schema must be {SCHEMA}")
    needed = {
        "name": str,
        "version": str,
        "family": str,
        "exact_id": str,
        "bundle_hash": str,
        "settings": dict,
        "graphs": dict,
        "files": list,
        "exact_files": list,
    }
    for key, kind in needed.items():
        if not isinstance(manifest.get(key), kind):
            raise BundleError(f"{folder / MANIFEST}: {key!r} is missing or not a {kind.__name__}")
    return manifest


def _read_verified(folder: Path, entry: dict[str, Any]) -> bytes:
    kinds = {"path": str, "size": int, "sha256": str}
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), kind) for key, kind in kinds.items()):
        raise BundleError(f"{folder / MANIFEST}: a file entry lacks path, size or sha256")
    path, size, sha256 = entry["path"], entry["size"], entry["sha256"]
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path:
        raise BundleError(f"{folder / MANIFEST}: file path {path!r} leaves the bundle")
    file = folder / pure
    try:
        if any((folder / part).is_symlink() for part in (pure, *pure.parents[:-1])):
            raise BundleError(f"{file}: links are not allowed in a bundle")
        if file.exists() and not file.is_file():
            raise BundleError(f"{file}: not a file")
        found = file.stat().st_size
        if found != size or size > _LARGEST_FILE:
            raise BundleError(f"{file}: {found} bytes, the manifest says {size} (at most {_LARGEST_FILE})")
        content = file.read_bytes()
    except (OSError, ValueError) as fault:  # ValueError: a path with a zero byte
        raise BundleError(f"{file}: {fault}") from fault
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BundleError(f"{file}: SHA-256 differs from the manifest's")
    return content


def _graph_spec(role: str, spec: dict[str, Any], files: Mapping[str, bytes]) -> GraphSpec:
    try:
        graph = GraphSpec(
            role=role,
            file=spec["file"],
            exact=bool(spec["exact"]),
            inputs=tuple(spec["inputs"]),
            outputs=tuple(spec["outputs"]),
            known_answers=spec.get("known_answers"),
        )
    except (KeyError, TypeError) as fault:
        raise BundleError(f"graph {role!r}: the manifest lacks {fault}") from fault
    for path in (graph.file, graph.known_answers):
        if path is not None and (not isinstance(path, str) or path not in files):
            raise BundleError(f"graph {role!r}: {path!r} is not among the bundle's files")
    return graph
