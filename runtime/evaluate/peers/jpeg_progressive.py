"""Progressive JPEG as a peer: libjpeg-turbo through Pillow, 4:2:0, cut at any byte."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.features
import PIL.Image

from runtime.evaluate.codecs import ProgressiveCodec
from runtime.evaluate.peers.saving import saved
from runtime.picture import Image

_LONGEST_SIDE = 65_500
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # 00 is stuffed, D0 to D7 restart inside a scan


class ProgressiveJpeg(ProgressiveCodec):
    """Progressive JPEG of one quality setting; what has not arrived stays grey or unrefined."""

    def __init__(self, quality: int) -> None:
        """Take *quality*, 1 to 95, as libjpeg's scale of quantisation tables has it."""
        self.name = f"jpeg-progressive-q{quality}"
        self._quality = quality

    def identity(self) -> Mapping[str, Any]:
        """Return library and settings."""
        name = "libjpeg-turbo" if PIL.features.check("libjpeg_turbo") else "jpg"
        version = PIL.features.version(name.replace("-", "_"))
        return {"kind": "peer", "library": f"{name} {version}", "quality": self._quality, "subsampling": "4:2:0"}

    def encode(self, image: Image) -> bytes:
        """Encode *image*, uint8 (H, W, 3) or (H, W); PictureError if a side is longer than libjpeg takes."""
        options = {"quality": self._quality, "progressive": True, "optimize": True, "subsampling": "4:2:0"}
        return saved(image, "JPEG", _LONGEST_SIDE, **options)

    def decode(self, data: bytes) -> Image | None:
        """Decode the prefix *data*; None while no scan has begun, or if the decoder refuses."""
        ended = ended_prefix(data)
        if ended is None:
            return None
        try:
            with PIL.Image.open(io.BytesIO(ended)) as picture:
                return np.array(picture)
        except (OSError, SyntaxError):  # what Pillow raises for files that it cannot decode
            return None


def ended_prefix(prefix: bytes) -> bytes | None:
    """Return the part of *prefix* that a decoder takes for a whole file, or None while no scan has begun.

    A scan may end anywhere: the decoder fills it up with zeros. A marker segment that is not all there is left out. So
    Pillow's global switch for truncated files is not needed.
    """
    position, scan_begun = 2, False
    while position + 4 <= len(prefix):
        marker, length = struct.unpack_from(">xBH", prefix, position)
        following = position + 2 + length
        if following > len(prefix):
            break
        position = following
        if marker == _START_OF_SCAN:
            scan_begun = True
            after = _MARKER_AFTER_SCAN.search(prefix, following)
            if after is None:
                return prefix + _END_OF_IMAGE
            position = after.start()
    return prefix[:position] + _END_OF_IMAGE if scan_begun else None
