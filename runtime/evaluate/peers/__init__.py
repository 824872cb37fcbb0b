"""Codecs to compare with: one file for each kind, every one a `runtime.evaluate.codecs.Codec`.

JPEG XL is not among them: no package was found that decodes a prefix (imagecodecs asks for more input).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from runtime.evaluate.codecs import Codec
from runtime.evaluate.peers.jpeg2000 import Jpeg2000
from runtime.evaluate.peers.jpeg_progressive import ProgressiveJpeg
from runtime.evaluate.peers.single_rate import AVIF, WEBP, SingleRate

__all__ = ["PEERS", "Jpeg2000", "ProgressiveJpeg", "SingleRate"]

# By the name on the command line; one name may stand for several settings. All are told at which bytes the run will cut
# their streams, if at the same of every picture: whose streams end well at some bytes alone is to end there.
PEERS: Mapping[str, Callable[[Sequence[int]], tuple[Codec, ...]]] = {
    "jpeg-progressive": lambda _: tuple(ProgressiveJpeg(quality) for quality in (75, 90, 95)),
    "jpeg2000": lambda cuts: (Jpeg2000(cuts),),
    "webp": lambda _: (SingleRate(WEBP),),
    "avif": lambda _: (SingleRate(AVIF),),
}
