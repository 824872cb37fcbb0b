"""Codecs to compare with: one file for each kind, every one a `runtime.evaluate.codecs.Codec`.

JPEG XL is not among them: no package was found that decodes a prefix (imagecodecs asks for more input).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runtime.evaluate.codecs import Codec
from runtime.evaluate.peers.jpeg2000 import Jpeg2000
from runtime.evaluate.peers.jpeg_progressive import ProgressiveJpeg
from runtime.evaluate.peers.single_rate import AVIF, WEBP, SingleRate

__all__ = ["PEERS", "Jpeg2000", "ProgressiveJpeg", "SingleRate"]

# By the name on the command line; one name may stand for several settings.
PEERS: Mapping[str, Callable[[], tuple[Codec, ...]]] = {
    "jpeg-progressive": lambda: tuple(ProgressiveJpeg(quality) for quality in (75, 90, 95)),
    "jpeg2000": lambda: (Jpeg2000(),),
    "webp": lambda: (SingleRate(WEBP),),
    "avif": lambda: (SingleRate(AVIF),),
}
