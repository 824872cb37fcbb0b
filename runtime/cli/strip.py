"""Pictures side by side with a caption each; drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from runtime.picture import Image

_LARGEST_PANEL = 480  # pixels; of a larger picture, the middle is shown, so that its detail stays visible
_CAPTION_HEIGHT = 18
_GAP = 4
_MOST_COLUMNS = 6


class Panel(NamedTuple):
    """A picture of a strip, uint8 (H, W, 3) or (H, W), and its caption."""

    caption: str
    image: Image


def strip_of(panels: Sequence[Panel]) -> Image:
    """Return *panels* from left to right, in rows, captions above, as uint8 (H, W, 3) on white."""
    import PIL.Image
    import PIL.ImageDraw

    cropped = [_cropped(panel.image) for panel in panels]
    height = _CAPTION_HEIGHT + max(image.shape[0] for image in cropped) + _GAP
    width = max(image.shape[1] for image in cropped) + _GAP
    rows, columns = -(-len(panels) // _MOST_COLUMNS), min(len(panels), _MOST_COLUMNS)
    strip = PIL.Image.new("RGB", (columns * width - _GAP, rows * height - _GAP), "white")
    draw = PIL.ImageDraw.Draw(strip)
    for number, (panel, image) in enumerate(zip(panels, cropped, strict=True)):
        left, top = number % _MOST_COLUMNS * width, number // _MOST_COLUMNS * height
        draw.text((left + 2, top + 2), panel.caption, fill="black")
        strip.paste(PIL.Image.fromarray(image), (left, top + _CAPTION_HEIGHT))
    return np.array(strip)


def _cropped(image: Image) -> Image:
    height, width = image.shape[:2]
    top, left = max(0, height - _LARGEST_PANEL) // 2, max(0, width - _LARGEST_PANEL) // 2
    return np.ascontiguousarray(image[top : top + _LARGEST_PANEL, left : left + _LARGEST_PANEL])
