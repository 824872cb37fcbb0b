"""WebP and AVIF as references without prefixes: libwebp and libavif through Pillow, a file of its own for every rate.

What they show at a rate needs that the rate was known when encoding; a cut file shows nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.features
import PIL.Image

from runtime.errors import MissingExtra
from runtime.evaluate.codecs import Delivery, best_files
from runtime.evaluate.peers.saving import saved
from runtime.picture import Image

_QUALITIES = range(0, 101)


@dataclass(frozen=True)
class Format:
    """A file format of Pillow's, by its name there.

    Attributes:
        name, feature: as Pillow calls it, for saving and for asking whether it is there.
        longest: pixels of a side.
        options: how it is saved.
    """

    name: str
    feature: str
    longest: int
    options: Mapping[str, Any]


WEBP = Format("WEBP", "webp", 16_383, {"method": 6})
# libavif writes longer sides, but refuses to read them. By itself it favours what looks good, at 10 % more rate for the
# same squared error.
AVIF = Format(
    "AVIF", "avif", 32_768, {"speed": 6, "subsampling": "4:4:4", "max_threads": 1, "advanced": {"tune": "psnr"}}
)


class SingleRate:
    """A format with a quality setting, and files that are of no use until they are whole."""

    progressive = False

    def __init__(self, kind: Format) -> None:
        """Find out whether Pillow has the library; MissingExtra if not."""
        self.name = kind.feature
        self._format = kind
        if not PIL.features.check(kind.feature):
            raise MissingExtra(
                f"{self.name} needs a newer Pillow, which brings it: pip install '.[eval]' in the checkout"
            )

    def identity(self) -> Mapping[str, Any]:
        """Return library and settings."""
        library = f"{self._format.feature} {PIL.features.version(self._format.feature)}"
        return {"kind": "single-rate peer", "library": library, **self._format.options}

    def deliver(self, image: Image, budgets: Sequence[int | None]) -> list[Delivery | None]:
        """Encode *image*, uint8 (H, W, 3) or (H, W), with the best quality that fits into each of *budgets*.

        Raises:
            PictureError: the format cannot hold it.
        """
        return best_files(self._encode, _QUALITIES, image, budgets)

    def decode(self, data: bytes) -> Image | None:
        """Decode a whole file to RGB, also of a grey picture; None for nothing, or a file that is cut."""
        try:
            with PIL.Image.open(io.BytesIO(data), formats=(self._format.name,)) as picture:
                return np.array(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError):  # what Pillow raises for files that it cannot decode
            return None

    def close(self) -> None:
        """Nothing is held."""

    def _encode(self, image: Image, quality: int) -> bytes:
        colours = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        return saved(colours, self._format.name, self._format.longest, quality=quality, **self._format.options)
