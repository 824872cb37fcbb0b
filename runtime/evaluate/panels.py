"""Panels: what a codec showed, kept for the report without loss."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import PIL.Image

from runtime.evaluate.codecs import Codec
from runtime.evaluate.runs.work import Panel
from runtime.picture import Image

N = TypeVar("N", int, float)
_MOST, _STEP = 5, 1.9  # panels in a strip, and how much more the next one has
_LARGEST = 256  # pixels a side; of a larger picture the middle is kept, at its own size


def spread(cuts: Sequence[N]) -> tuple[N, ...]:
    """Return those of *cuts* of which panels are kept: few, each about twice the one before."""
    kept: list[N] = []
    for cut in sorted(cuts):
        if len(kept) < _MOST and (not kept or cut >= _STEP * kept[-1]):
            kept.append(cut)
    return tuple(kept)


def featured(codecs: Iterable[Codec]) -> frozenset[str]:
    """Return the names of those of *codecs* that strips show: of several settings of a library, the first alone."""
    chosen: dict[object, str] = {}
    for codec in codecs:
        chosen.setdefault(codec.identity().get("library", codec.name), codec.name)
    return frozenset(chosen.values())


def panel(codec: Codec, cut: str, caption: str, image: Image | None) -> Panel:
    """Return the panel of *image*, uint8 (H, W, 3) or (H, W); of None a grey square that says why."""
    if image is None:
        caption = "nothing to show yet" if codec.progressive else "no file fits"
    shown = np.full((8, 8), 200, np.uint8) if image is None else _middle(image)
    buffer = io.BytesIO()
    PIL.Image.fromarray(shown).convert("RGB").save(buffer, "WEBP", lossless=True, quality=80)
    return Panel(codec.name, cut, caption, buffer.getvalue())


def _middle(image: Image) -> Image:
    height, width = image.shape[:2]
    top, left = max(0, height - _LARGEST) // 2, max(0, width - _LARGEST) // 2
    return np.ascontiguousarray(image[top : top + _LARGEST, left : left + _LARGEST])
