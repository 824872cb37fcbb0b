"""A bundle as a codec to be measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.bundle import SUFFIX
from runtime.codec import Codec
from runtime.errors import Incomplete
from runtime.evaluate.codecs import OWN_STREAMS, ProgressiveCodec
from runtime.picture import Image


class BundleCodec(ProgressiveCodec):
    """An opened bundle behind `runtime.evaluate.codecs.Codec`."""

    def __init__(self, codec: Codec, name: str, settings: Mapping[str, Any]) -> None:
        """Take over *codec*; `close` closes it. *settings* are what it was opened with."""
        codec.model.hurry()
        codec.model.open_all()
        self._codec, self.name, self._settings = codec, name, settings

    @classmethod
    def open(cls, bundle: str, engine: str, threads: int, precision: str = "auto") -> BundleCodec:
        """Open a shipped bundle by name or any by its path, whose name it then bears; errors as of `Codec.open`."""
        settings = {"engine": engine, "threads": threads, "precision": precision}
        name = Path(bundle).resolve().name.removesuffix(SUFFIX)
        return cls(Codec.open(bundle, engine, threads, OWN_STREAMS, precision=precision), name, settings)

    def identity(self) -> Mapping[str, Any]:
        """Return the bundle's hashes, and how it was opened."""
        bundle = self._codec.bundle
        return {
            "kind": "bundle",
            "bundle": f"{bundle.name} {bundle.version}",
            "family": bundle.family,
            "exact_id": bundle.exact_id.hex(),
            "bundle_hash": bundle.bundle_hash,
            "coder": self._codec.model.coder.name,
            "back ends": ", ".join(sorted({use.backend for use in self._codec.model.engines_report()})),
            **self._settings,
        }

    def encode(self, image: Image) -> bytes:
        """Encode *image*, uint8 (H, W, 3) or (H, W)."""
        return self._codec.encode(image).stream

    def decode(self, data: bytes) -> Image | None:
        """Decode a prefix; None while it ends before its head segment does."""
        try:
            return self._codec.decode(data).image
        except Incomplete:
            return None

    def close(self) -> None:
        """Free the engines."""
        self._codec.close()
