"""Small pictures for whoever looks."""

from __future__ import annotations

import io

from runtime.picture import Image

_SIDE = 512  # pixels of the longer side


def small_jpeg(image: Image, side: int = _SIDE) -> bytes:
    """Return *image*, uint8 (H, W, 3) or (H, W), as a JPEG file of at most *side* pixels a side."""
    import PIL.Image

    picture = PIL.Image.fromarray(image)
    picture.thumbnail((side, side), PIL.Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
