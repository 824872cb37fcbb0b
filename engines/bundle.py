"""Bundles: everything a device needs to run one trained model, as a folder or as one file (`engines.bundle_source`).

    manifest.json     what the bundle is, and size and SHA-256 of every other file
    plan.json         those settings that decide what a stream says; missing where none does
    graphs/*.onnx     one network each
    tables/*.npz      integer tables
    kat/*.npz         known answers of graphs

`Bundle.open` reads every file once, checks it, and keeps the bytes: no parser ever sees a byte that was not verified.
The manifest is the only exception; `engines.manifest` checks it as what it is, a text from anywhere.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines.bundle_source import SUFFIX, Folder, OneFile, Source
from engines.errors import BundleError, OutputError
from engines.manifest import (
    MANIFEST,
    SCHEMA,
    BundleLimits,
    FileEntry,
    GraphSpec,
    Manifest,
    parse_manifest,
    parse_settings,
)

PLAN = "plan.json"
SHIPPED = Path(__file__).parent / "bundles"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory.

    Attributes:
        name, version, family: what it is.
        exact_id: 8 bytes over the exact graphs and tables; a stream names it in its header.
        bundle_hash: hexadecimal SHA-256 over all files; names caches.
        settings: what the family needs to know beside graphs and tables: those of the manifest, and those of plan.json,
            which the exact_id covers.
        graphs: by role.
        where: the folder or file it came from.
        exact_files: paths of the files that make the exact_id.
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
    exact_files: frozenset[str] = frozenset()

    @classmethod
    def open(cls, name_or_path: str | Path, limits: BundleLimits | None = None) -> Bundle:
        """Read a shipped bundle by name, or any bundle by its folder or file.

        Raises:
            BundleError: there is none, a file is missing or differs from the manifest, the manifest is unreadable, or
                something is larger than *limits* allow.
        """
        limits = limits or BundleLimits()
        source = _source(_find(name_or_path), limits)
        folder = source.where
        manifest = _manifest(source, limits)
        files = {entry.path: _read_verified(source, entry) for entry in manifest.files}
        bundle = cls(
            name=manifest.name,
            version=manifest.version,
            family=manifest.family,
            exact_id=exact_id({path: files[path] for path in manifest.exact_files}),
            bundle_hash=bundle_hash(files),
            settings=manifest.settings,
            graphs=manifest.graphs,
            where=folder,
            _files=files,
            exact_files=frozenset(manifest.exact_files),
        )
        if bundle.exact_id.hex() != manifest.exact_id:
            raise BundleError(f"{folder}: exact_id {manifest.exact_id} does not belong to its exact files")
        if bundle.bundle_hash != manifest.bundle_hash:
            raise BundleError(f"{folder}: bundle_hash does not belong to its files")
        return bundle._with_plan() if PLAN in files else bundle

    def _with_plan(self) -> Bundle:
        """Return the bundle with the settings of plan.json among its own."""
        try:
            plan = parse_settings(self.read_exact(PLAN))
        except BundleError as fault:
            raise BundleError(f"{self.where / PLAN}: {fault}") from fault
        twice = plan.keys() & self.settings.keys()
        if twice:
            raise BundleError(f"{self.where}: {', '.join(sorted(twice))} stands in manifest and {PLAN}")
        return replace(self, settings={**self.settings, **plan})

    def graph(self, role: str) -> GraphSpec:
        """Return what the manifest says of the graph of *role*.

        Raises:
            BundleError: there is none.
        """
        try:
            return self.graphs[role]
        except KeyError:
            raise BundleError(
                f"bundle {self.name} has no graph {role!r}; it has {', '.join(sorted(self.graphs))}"
            ) from None

    def read(self, path: str) -> bytes:
        """Return the verified bytes of one file.

        Raises:
            BundleError: the bundle has no such file.
        """
        try:
            return self._files[path]
        except KeyError:
            raise BundleError(f"{self.where}: the bundle has no file {path!r}") from None

    def read_exact(self, path: str) -> bytes:
        """Return the verified bytes of a file that the exact_id covers.

        Raises:
            BundleError: the bundle has no such file, or its exact_id does not cover it.
        """
        content = self.read(path)
        if path not in self.exact_files:
            raise BundleError(f"{self.where}: {path!r} is not among the manifest's exact files")
        return content


def exact_id(files: Mapping[str, bytes]) -> bytes:
    """Return the 8 bytes that name a set of exact files: the start of SHA-256 over sorted (path, SHA-256) pairs."""
    return bytes.fromhex(_digest_of_digests(files))[:8]


def bundle_hash(files: Mapping[str, bytes]) -> str:
    """Return the hexadecimal SHA-256 over sorted (path, SHA-256) pairs of all files but the manifest."""
    return _digest_of_digests(files)


def stated_exact_id(name_or_path: str | Path) -> bytes:
    """Return the exact_id that a bundle's manifest states; nothing else is read, and `Bundle.open` proves it.

    Raises:
        BundleError: there is no such bundle, or its manifest is unreadable.
    """
    limits = BundleLimits()
    return bytes.fromhex(_manifest(_source(_find(name_or_path), limits), limits).exact_id)


def unpack(name_or_path: str | Path, folder: Path) -> None:
    """Write a bundle as a new folder of plain files; it is the same bundle, with the same hashes.

    Raises:
        BundleError: see `Bundle.open`.
        OutputError: there is something of that name already, other than an empty folder, or it cannot be written.
    """
    bundle = Bundle.open(name_or_path)
    limits = BundleLimits()
    manifest = _source(bundle.where, limits).read(MANIFEST, limits.manifest_bytes)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cutoff-", dir=folder.parent) as temporary:
            partial = Path(temporary) / "bundle"
            for path, content in {**bundle._files, MANIFEST: manifest}.items():
                (partial / path).parent.mkdir(parents=True, exist_ok=True)
                (partial / path).write_bytes(content)
            partial.rename(folder)
    except (OSError, ValueError) as fault:
        raise OutputError(f"{folder}: cannot be written: {getattr(fault, 'strerror', None) or fault}") from fault


def shipped_bundles() -> list[str]:
    """Return the names of the bundles that come with this installation."""
    return sorted(p.stem for p in SHIPPED.glob(f"*{SUFFIX}"))


def _digest_of_digests(files: Mapping[str, bytes]) -> str:
    lines = "".join(f"{path} {hashlib.sha256(files[path]).hexdigest()}\n" for path in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if os.path.isfile(path / MANIFEST) or os.path.isfile(path):  # names that no file can have are no files
        return path
    if str(name_or_path) in shipped_bundles():
        return SHIPPED / f"{name_or_path}{SUFFIX}"
    raise BundleError(
        f"no bundle {str(name_or_path)!r}: neither a folder with a {MANIFEST}, nor a file, nor one of the shipped "
        f"({', '.join(shipped_bundles()) or 'none'})"
    )


def _manifest(source: Source, limits: BundleLimits) -> Manifest:
    try:
        return parse_manifest(source.read(MANIFEST, limits.manifest_bytes), limits)
    except BundleError as fault:
        raise BundleError(f"{source.where / MANIFEST}: {fault}") from fault


def _source(path: Path, limits: BundleLimits) -> Source:
    if os.path.isdir(path):
        return Folder(path)
    try:
        return OneFile(path, limits.manifest_bytes + limits.total_bytes)
    except BundleError as fault:
        raise BundleError(f"{path}: {fault}") from fault


def _read_verified(source: Source, entry: FileEntry) -> bytes:
    file = source.where / entry.path
    try:
        content = source.read(entry.path, entry.size, size=entry.size)
    except BundleError as fault:
        raise BundleError(f"{file}: {fault}") from fault
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BundleError(f"{file}: SHA-256 differs from the manifest's")
    return content


__all__ = [
    "MANIFEST",
    "PLAN",
    "SCHEMA",
    "SHIPPED",
    "SUFFIX",
    "Bundle",
    "BundleLimits",
    "GraphSpec",
    "bundle_hash",
    "exact_id",
    "shipped_bundles",
    "stated_exact_id",
    "unpack",
]
