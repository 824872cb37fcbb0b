"""From the source's picture to the one that is encoded: cropped, made smaller, grey."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_client.settings import PictureSettings
from runtime.errors import ConfigurationError
from runtime.picture import Image


def shaped(image: Image, settings: PictureSettings, cv2: Any) -> Image:
    """Return *image*, uint8 (H, W, 3) or (H, W), as *settings* want it.

    Raises:
        ConfigurationError: the crop lies outside the picture.
    """
    if settings.crop:
        x, y, width, height = settings.crop
        if y + height > image.shape[0] or x + width > image.shape[1]:
            raise ConfigurationError(
                f"picture.crop {list(settings.crop)} leaves the picture of {image.shape[1]}x{image.shape[0]}"
            )
        image = image[y : y + height, x : x + width]
    if settings.grey and image.ndim == 3:
        image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    widest, tallest = settings.width or image.shape[1], settings.height or image.shape[0]
    return scaled(image, min(1.0, widest / image.shape[1], tallest / image.shape[0]), cv2)


def scaled(image: Image, factor: float, cv2: Any) -> Image:
    """Return *image* with both sides multiplied by *factor*, at most 1, by the mean of what each pixel covers."""
    if factor == 1.0:
        return np.ascontiguousarray(image)
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    smaller: Image = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)
    return smaller
