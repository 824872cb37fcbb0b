"""Bundle manifests, and bundles with right hashes whose manifest says something else than it did.

Input: mode, then
    even   the manifest as it is
    odd    changes of the tiny bundle's manifest: (path through it, value) again and again; hashes are made right, and a
           bundle that opens decodes a picture
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from targets.source import Source
from targets.streams import GOLDEN, golden_streams

from engines.bundle import Bundle, bundle_hash, exact_id
from engines.errors import BundleError, CutoffError
from engines.manifest import MANIFEST, BundleLimits, parse_manifest
from runtime.codec import Codec
from runtime.model import Model
from runtime.stream import Limits

_TILE_SIDE = 64  # so that small pictures go through the networks in tiles
_LIMITS = Limits(pixels=1 << 14, seconds=math.inf)
_VALUES: tuple[Callable[[Source], Any], ...] = (
    lambda source: source.number() - 128,
    lambda source: source.number(8) - (1 << 63),
    lambda source: source.number(2) / 256,
    lambda source: source.take(source.number() % 40).decode("latin-1"),
    lambda source: source.choice(("g_a", "g_s", "h_a", "h_s", "preview", "post_low", "z_hat", "mu", "y_hat", "x_hat")),
    lambda source: source.choice((None, True, False, "", [], {}, 1e308, -0.0, 1 << 70, "tables/entropy.npz")),
    lambda source: source.choice(("graphs/h_s.onnx", "graphs/g_s.onnx", "kat/h_s.npz", "../x", "/x", "a/../b")),
    lambda source: [_value(source) for _ in range(source.number() % 4)],
    lambda source: {source.choice(("file", "exact", "inputs", "path", "size")): _value(source)},
    lambda source: {name: source.number() - 128 for name in ("pixels", "multiple", "reach")},
)


def one_input(data: bytes) -> None:
    """Parse, or open and decode."""
    source = Source(data)
    if source.number() % 2 == 0:
        with suppress(BundleError):
            parse_manifest(source.rest(), BundleLimits())
        return
    manifest = json.loads((_folder() / "tiny.json").read_text())
    while source:
        _change(manifest, source)
    for key, digest in (("exact_id", _exact_id(manifest)), ("bundle_hash", _bundle_hash(manifest))):
        if digest is not None and manifest.get(key) != "as it is":
            manifest[key] = digest
    (_folder() / MANIFEST).write_text(json.dumps(manifest))
    try:
        bundle = Bundle.open(_folder())
    except BundleError:
        return
    with (
        patch("runtime.model.TILE_SIDE", _TILE_SIDE),
        suppress(CutoffError),
        Codec(Model(bundle, "auto", 1, _LIMITS)) as codec,
    ):
        picture = codec.decode(golden_streams()["rgb"])
        assert picture.image is not None and picture.image.shape == (70, 150, 3)


def seeds() -> dict[str, bytes]:
    """The tiny bundle's manifest, and small changes of it."""
    made = {"tiny": b"\x00" + (GOLDEN / "tiny" / MANIFEST).read_bytes(), "unchanged": b"\x01"}
    for role in range(6):  # into "graphs", into a role; a new key, "tiling", a dict of three numbers
        for pixels, multiple, reach in ((16, 1, 1), (64, 1, 0), (1, 3, 2)):
            tiling = bytes([9, 128 + pixels, 128 + multiple, 128 + reach])
            made[f"tiles-{role}-{pixels}"] = bytes([1, 7, 0, 1, role, 0, 1, 0, 1, 0]) + tiling
    for path in range(12):
        for value in (0, 2, 4, 5):
            made[f"changed-{path}-{value}"] = bytes([1, path, 1, 0, 255, value, 3, 3])
    return made


def _change(manifest: dict[str, Any], source: Source) -> None:
    """Follow a path, and put a value where it ends, or take away what is there."""
    place: Any = manifest
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = source.choice(keys)
        if isinstance(place, dict) and source.number() % 16 == 1:
            name = source.choice(("tiling", "accumulator_log2", "known_answers", "more"))
            place[name] = _value(source)
            return
        if isinstance(place[key], (dict, list)) and place[key] and source.number() % 4:
            place = place[key]
        elif source.number() % 8 == 0:
            del place[key]
            return
        else:
            place[key] = _value(source)
            return


def _value(source: Source) -> Any:
    return source.choice(_VALUES)(source)


def _exact_id(manifest: dict[str, Any]) -> str | None:
    try:
        return exact_id({path: (GOLDEN / "tiny" / path).read_bytes() for path in manifest["exact_files"]}).hex()
    except (TypeError, KeyError, ValueError, OSError):
        return None


def _bundle_hash(manifest: dict[str, Any]) -> str | None:
    try:
        paths = [entry["path"] for entry in manifest["files"]]
        return bundle_hash({path: (GOLDEN / "tiny" / path).read_bytes() for path in paths})
    except (TypeError, KeyError, ValueError, OSError):
        return None


@cache
def _folder() -> Path:
    """Return a folder with the tiny bundle, whose manifest may be written over."""
    folder = Path(tempfile.mkdtemp(prefix="cutoff-fuzz-"))
    shutil.copytree(GOLDEN / "tiny", folder, dirs_exist_ok=True)
    shutil.copy(folder / MANIFEST, folder / "tiny.json")
    return folder
