"""Pictures written by Pillow, for peers; what a format cannot hold is one error of ours."""

from __future__ import annotations

import io

import PIL.Image

from runtime.errors import PictureError
from runtime.picture import Image


def saved(image: Image, name: str, longest: int, **options: object) -> bytes:
    """Return *image*, uint8 (H, W, 3) or (H, W), as a file of the format that Pillow calls *name*.

    Args:
        longest: pixels of a side that format and library can write and read.
        options: as of `PIL.Image.Image.save`.

    Raises:
        PictureError: the format cannot hold the picture.
    """
    height, width = image.shape[:2]
    if max(height, width) > longest:
        raise PictureError(f"{name} as it is measured here holds {longest} pixels a side, not {width}x{height}")
    buffer = io.BytesIO()
    try:
        PIL.Image.fromarray(image).save(buffer, name, **options)
    except (OSError, ValueError) as fault:  # what Pillow raises for pictures that a library refuses
        raise PictureError(f"{name} cannot hold this picture of {width}x{height}: {fault}") from fault
    return buffer.getvalue()
