"""manifest.json: what a bundle says of itself, checked field by field before anything else of the bundle is read.

Unknown keys are ignored, so that later versions can say more; the keys that are used must be there, of the right type
and within limits. A manifest comes from outside: no claim in it may lead out of the bundle's folder or cost memory.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engines.errors import BundleError

SCHEMA = 1
MANIFEST = "manifest.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_ROLE = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TENSOR = re.compile(r"[A-Za-z_][A-Za-z0-9_./:-]{0,127}")
_PART_OF_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_HEX = re.compile(r"[0-9a-f]+")
_EXACT_ID_DIGITS, _HASH_DIGITS = 16, 64
_LONGEST_NUMBER = 20
_MOST_PARTS = 4
_MOST_REACH = 1 << 12


@dataclass(frozen=True)
class BundleLimits:
    """What a bundle may cost; checked before memory is taken.

    Attributes:
        manifest_bytes: size of manifest.json.
        files: number of other files.
        total_bytes: size of all files together, which are kept in memory.
        graphs: number of graphs.
        tensors: inputs, and outputs, of one graph.
    """

    manifest_bytes: int = 1 << 20
    files: int = 256
    total_bytes: int = 1 << 30
    graphs: int = 64
    tensors: int = 16


@dataclass(frozen=True)
class Tiling:
    """How a graph may be run in parts.

    Attributes:
        pixels: pixels of the picture per position of the input, along an axis.
        multiple: inputs' heights and widths are multiples of this.
        reach: how many positions away an input can still change an output.
    """

    pixels: int
    multiple: int
    reach: int


@dataclass(frozen=True)
class GraphSpec:
    """What the manifest says of one graph.

    Attributes:
        role: what the graph is for (g_a, g_s, h_a, h_s, preview, ...).
        file: its path in the bundle.
        exact: its output must be bit-identical everywhere.
        inputs, outputs: tensor names in order, all float32 (B, C, H, W). An input may always be one position large:
            what holds for all of a picture.
        known_answers: path of the file of known answers, or None.
        accumulator_log2: of exact graphs, log2 of each layer's largest sum as the exporter claims it, or None.
        tiling: how it may be run in parts, or None if every output may depend on all of the input.
        float32_in_fp16: tensors that stay float32 where the graph runs in FP16 (see `engines.half`); None if the
            exporter has not found that the graph may.
    """

    role: str
    file: str
    exact: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    known_answers: str | None
    accumulator_log2: Mapping[str, float] | None = None
    tiling: Tiling | None = None
    float32_in_fp16: tuple[str, ...] | None = None


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle: relative path, size in bytes, hexadecimal SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A checked manifest; see `engines.bundle.Bundle` for the fields."""

    name: str
    version: str
    family: str
    exact_id: str
    bundle_hash: str
    settings: Mapping[str, Any]
    graphs: Mapping[str, GraphSpec]
    files: tuple[FileEntry, ...]
    exact_files: tuple[str, ...]


def parse_manifest(content: bytes, limits: BundleLimits) -> Manifest:
    """Read and check a manifest.

    Raises:
        BundleError: it is not JSON, of another schema, or a field is missing, of the wrong type or out of its limits.
    """
    fields = _json(content)
    _require(isinstance(fields, dict) and _is_int(fields.get("schema")), f"schema must be {SCHEMA}")
    _require(fields["schema"] == SCHEMA, f"schema must be {SCHEMA}, not {fields['schema']}")
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
        _require(isinstance(fields.get(key), kind), f"{key!r} is missing or not a {kind.__name__}")
    for key in ("name", "version"):
        _require(_NAME.fullmatch(fields[key]), f"{key} {_short(fields[key])} must be letters, digits and any of ._+-")
    _require(_ROLE.fullmatch(fields["family"]), f"family {_short(fields['family'])} must be a lower-case name")
    _require(
        _is_hex(fields["exact_id"], _EXACT_ID_DIGITS),
        f"exact_id {_short(fields['exact_id'])} does not belong to its exact files: it has 16 hexadecimal digits",
    )
    _require(_is_hex(fields["bundle_hash"], _HASH_DIGITS), "bundle_hash must be 64 lower-case hexadecimal digits")
    files = _files(fields["files"], limits)
    paths = {entry.path for entry in files}
    exact_files = _exact_files(fields["exact_files"], paths)
    _require(len(fields["graphs"]) <= limits.graphs, f"more than {limits.graphs} graphs")
    graphs = {role: _graph(role, spec, paths, limits) for role, spec in fields["graphs"].items()}
    for graph in graphs.values():
        if graph.exact:
            _require(graph.file in exact_files, f"exact file {graph.file!r} is not among the manifest's exact files")
    return Manifest(
        name=fields["name"],
        version=fields["version"],
        family=fields["family"],
        exact_id=fields["exact_id"],
        bundle_hash=fields["bundle_hash"],
        settings=fields["settings"],
        graphs=graphs,
        files=files,
        exact_files=exact_files,
    )


def parse_settings(content: bytes) -> dict[str, Any]:
    """Read a file of settings: a JSON object under the rules of the manifest.

    Raises:
        BundleError: it is none.
    """
    fields = _json(content)
    _require(isinstance(fields, dict), "not a JSON object")
    return dict(fields)


def _json(content: bytes) -> Any:
    try:
        return json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_int=_short_int,
            parse_float=_finite_float,
        )
    except (ValueError, RecursionError) as fault:
        raise BundleError(f"not JSON that a manifest may hold: {fault}") from fault


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _short_int(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:_LONGEST_NUMBER]} is no finite number")
    return number


def _files(entries: Sequence[Any], limits: BundleLimits) -> tuple[FileEntry, ...]:
    _require(len(entries) <= limits.files, f"{len(entries)} files, more than {limits.files}")
    files: list[FileEntry] = []
    seen: set[str] = set()
    total = 0
    for entry in entries:
        kinds = {"path": str, "size": int, "sha256": str}
        _require(
            isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items()),
            "a file entry lacks path, size or sha256",
        )
        file = FileEntry(entry["path"], entry["size"], entry["sha256"])
        _check_path(file.path)
        _require(file.path.casefold() not in seen, f"file path {file.path!r} occurs twice")
        seen.add(file.path.casefold())
        _require(_is_int(file.size) and file.size >= 0, f"{file.path}: size {file.size} must be 0 or more")
        _require(_is_hex(file.sha256, _HASH_DIGITS), f"{file.path}: sha256 must be 64 lower-case hexadecimal digits")
        total += file.size
        _require(total <= limits.total_bytes, f"files of {total} bytes; at most {limits.total_bytes} are allowed")
        files.append(file)
    return tuple(files)


def _check_path(path: str) -> None:
    """Refuse a path that is not plain, relative and inside the bundle."""
    parts = path.split("/")
    plain = len(parts) <= _MOST_PARTS and all(_PART_OF_PATH.fullmatch(part) for part in parts)
    _require(plain and path != MANIFEST, f"file path {_short(path)} leaves the bundle or is not plain")


def _exact_files(paths: Sequence[Any], known: set[str]) -> tuple[str, ...]:
    for path in paths:
        _require(isinstance(path, str) and path in known, f"exact file {_short(path)} is not among the bundle's files")
    _require(len(set(paths)) == len(paths), "an exact file occurs twice")
    return tuple(paths)


def _graph(role: str, fields: Any, paths: set[str], limits: BundleLimits) -> GraphSpec:
    _require(_ROLE.fullmatch(role), f"graph {_short(role)}: a role must be a lower-case name")
    where = f"graph {role!r}"
    _require(isinstance(fields, dict), f"{where} is not a dict")
    _require("file" in fields, f"{where}: the manifest lacks 'file'")
    for key, kind in {"exact": bool, "inputs": list, "outputs": list}.items():
        _require(
            isinstance(fields.get(key), kind), f"{where}: the manifest lacks {key!r}, or it is not a {kind.__name__}"
        )
    answers, claims = fields.get("known_answers"), fields.get("accumulator_log2")
    for path in (fields["file"], *(() if answers is None else (answers,))):
        known = isinstance(path, str) and path in paths
        _require(known, f"{where}: {_short(path)} is not among the bundle's files")
    for key in ("inputs", "outputs"):
        _check_tensors(fields[key], f"{where}: {key}", limits)
    if claims is not None:
        valid = isinstance(claims, dict) and all(
            isinstance(bits, (int, float)) and not isinstance(bits, bool) for bits in claims.values()
        )
        _require(valid, f"{where}: accumulator_log2 must give a number for each layer")
    tiling = fields.get("tiling")
    if tiling is not None:
        names = [name.name for name in dataclasses.fields(Tiling)]
        valid = isinstance(tiling, dict) and all(_is_int(tiling.get(name)) for name in names)
        _require(valid, f"{where}: tiling must give integers {', '.join(names)}")
        tiling = Tiling(**{name: tiling[name] for name in names})
        within = 0 <= tiling.reach <= _MOST_REACH and all(
            1 <= size <= _MOST_REACH for size in (tiling.pixels, tiling.multiple)
        )
        _require(within, f"{where}: tiling is out of range")
    half = _float32_in_fp16(fields.get("fp16"), where)
    _require(half is None or not fields["exact"], f"{where}: an exact graph has no FP16 form")
    return GraphSpec(
        role=role,
        file=fields["file"],
        exact=fields["exact"],
        inputs=tuple(fields["inputs"]),
        outputs=tuple(fields["outputs"]),
        known_answers=answers,
        accumulator_log2=None if claims is None else {str(layer): float(bits) for layer, bits in claims.items()},
        tiling=tiling,
        float32_in_fp16=half,
    )


def _float32_in_fp16(entry: Any, where: str) -> tuple[str, ...] | None:
    if entry is None:
        return None
    names = entry.get("float32") if isinstance(entry, dict) else None
    _require(isinstance(names, list), f"{where}: fp16 must list the tensors that stay float32")
    assert isinstance(names, list)
    for name in names:
        valid = isinstance(name, str) and _TENSOR.fullmatch(name)
        _require(valid, f"{where}: fp16: {_short(name)} is no tensor's name")
    return tuple(names)


def _check_tensors(names: Sequence[Any], where: str, limits: BundleLimits) -> None:
    _require(0 < len(names) <= limits.tensors, f"{where} must be 1 to {limits.tensors} names")
    for name in names:
        _require(isinstance(name, str) and _TENSOR.fullmatch(name), f"{where}: {_short(name)} is no tensor's name")
    _require(len(set(names)) == len(names), f"{where}: a name occurs twice")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_hex(text: str, digits: int) -> bool:
    return len(text) == digits and _HEX.fullmatch(text) is not None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _require(condition: object, fault: str) -> None:
    if not condition:
        raise BundleError(fault)
