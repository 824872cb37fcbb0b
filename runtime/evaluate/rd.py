"""Rate and distortion of one picture: one real stream, cut at every point.

    picture -> ProgressiveCodec.encode -> stream -> stream[:cut] -> ProgressiveCodec.decode -> PSNR, MS-SSIM -> Cut

The decoder is handed the bytes of the prefix and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from runtime.evaluate.distortion import ms_ssim, psnr
from runtime.picture import Image


class ProgressiveCodec(Protocol):
    """A codec whose streams may be cut anywhere."""

    @property
    def name(self) -> str:
        """What tables and plots call it."""
        ...

    def encode(self, image: Image) -> bytes:
        """Encode *image*, uint8 (H, W, 3) RGB or (H, W) grey, into one stream."""
        ...

    def decode(self, prefix: bytes) -> Image | None:
        """Decode a prefix, and nothing but it, to a picture of the original's shape; None if it shows nothing yet."""
        ...


@dataclass(frozen=True)
class Cut:
    """One stream cut at one point; the fields are the columns of the results file.

    Attributes:
        codec, image: names.
        target_bpp: bits per pixel at which the stream was cut; None for the full stream.
        bytes: length of the prefix that was decoded: that of the whole stream where it is shorter than the cut.
        bpp: 8 *bytes* per pixel.
        psnr_db: None if the prefix shows nothing; infinite for an equal picture.
        ms_ssim: 0..1; None if the prefix shows nothing or the picture is too small for it.
    """

    codec: str
    image: str
    target_bpp: float | None
    bytes: int
    bpp: float
    psnr_db: float | None
    ms_ssim: float | None


def measure(codec: ProgressiveCodec, image_name: str, image: Image, points_bpp: Sequence[float]) -> list[Cut]:
    """Encode *image* once, and decode the stream cut at each of *points_bpp* and whole.

    A cut at b bits per pixel leaves floor(b * pixels / 8) bytes.
    """
    stream = codec.encode(image)
    pixels = image.shape[0] * image.shape[1]
    known: dict[int, tuple[float | None, float | None]] = {}  # by length: cuts beyond a short stream's end are alike
    cuts = []
    for target in (*points_bpp, None):
        size = len(stream) if target is None else min(len(stream), int(target * pixels / 8))
        if size not in known:
            decoded = codec.decode(stream[:size])
            known[size] = (None, None) if decoded is None else (psnr(decoded, image), ms_ssim(decoded, image))
        cuts.append(Cut(codec.name, image_name, target, size, 8 * size / pixels, *known[size]))
    return cuts
