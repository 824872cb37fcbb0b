"""Codecs to compare with: one file each, every one a `runtime.evaluate.rd.ProgressiveCodec`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runtime.evaluate.peers.jpeg2000 import Jpeg2000
from runtime.evaluate.peers.jpeg_progressive import ProgressiveJpeg

__all__ = ["PEERS", "Jpeg2000", "ProgressiveJpeg"]

# By the name on the command line; one name may stand for several settings.
PEERS: Mapping[str, Callable[[], tuple[ProgressiveJpeg | Jpeg2000, ...]]] = {
    "jpeg-progressive": lambda: tuple(ProgressiveJpeg(quality) for quality in (75, 90, 95)),
    "jpeg2000": lambda: (Jpeg2000(),),
}
