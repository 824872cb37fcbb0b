"""A bundle as a codec to be measured."""

from __future__ import annotations

from pathlib import Path

from runtime.codec import Codec
from runtime.errors import Incomplete
from runtime.picture import Image


class BundleCodec:
    """An opened bundle behind `runtime.evaluate.rd.ProgressiveCodec`."""

    def __init__(self, codec: Codec, name: str) -> None:
        """Take over *codec*; `close` closes it."""
        self._codec = codec
        self.name = name

    @classmethod
    def open(cls, bundle: str, engine: str, threads: int | None, precision: str = "auto") -> BundleCodec:
        """Open a shipped bundle by name or any by its folder, whose name it then bears; errors as of `Codec.open`."""
        return cls(Codec.open(bundle, engine, threads, precision=precision), Path(bundle).resolve().name)

    def encode(self, image: Image) -> bytes:
        """Encode *image*, uint8 (H, W, 3) or (H, W)."""
        return self._codec.encode(image).stream

    def decode(self, prefix: bytes) -> Image | None:
        """Decode *prefix*; None while it ends before its head segment does."""
        try:
            return self._codec.decode(prefix).image
        except Incomplete:
            return None

    def close(self) -> None:
        """Free the engines."""
        self._codec.close()
