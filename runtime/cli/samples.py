"""Pictures for verbs that were given none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime.errors import MissingExtra
from runtime.picture import Image

_SEED = 20
_CONTRAST = 45.0  # standard deviation of the grey levels


def synthetic_picture(width: int, height: int) -> Image:
    """Return uint8 (height, width, 3), always the same: noise that falls with frequency as in photographs."""
    generator = np.random.default_rng(_SEED)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / max(width, height)) ** 1.3
    planes = []
    for weight in (1.0, 0.25, 0.25):  # brightness, and two differences of colour
        plane = np.fft.irfft2(np.fft.rfft2(generator.standard_normal((height, width))) * amplitude, (height, width))
        planes.append(weight * _CONTRAST * (plane - plane.mean()) / max(float(plane.std()), 1e-9))
    brightness, warm, green = planes
    colours = np.stack([brightness + warm, brightness + green, brightness - warm], axis=2) + 128
    levels: Image = np.clip(np.rint(colours), 0, 255).astype(np.uint8)
    return levels


def photographs() -> dict[str, Image]:
    """Return the photographs that come with scikit-image, uint8 (H, W, 3), by name.

    Raises:
        MissingExtra: scikit-image is not installed.
    """
    try:
        from skimage import data as of_skimage
    except ModuleNotFoundError as fault:
        raise MissingExtra(
            "the demo's own photographs come with scikit-image: pip install '.[demo]' in the checkout, or name pictures"
        ) from fault
    data: Any = of_skimage  # untyped
    return {
        "astronaut": data.astronaut(),
        "chelsea": data.chelsea(),
        "coffee": data.coffee(),
        "motorcycle": data.stereo_motorcycle()[0],
        "rocket": data.rocket(),
    }


def camera_pictures(pictures: Sequence[Image], width: int, height: int, count: int) -> Iterator[Image]:
    """Yield *count* views, uint8 (height, width, 3), as of a camera that pans and zooms over *pictures* in turn.

    Each of *pictures*, uint8 (H, W, 3) of any size, is looked at for an equal share of the views; the last view of one
    is where its first began.
    """
    import PIL.Image

    for number in range(count):
        index, share = divmod(number * len(pictures) / count, 1)
        picture = PIL.Image.fromarray(pictures[int(index)])
        turn = 2 * math.pi * share
        largest = min(picture.width / width, picture.height / height)
        scale = largest * (0.8 + 0.2 * math.cos(2 * turn))
        wide, high = scale * width, scale * height
        left = (picture.width - wide) * (0.5 + 0.5 * math.sin(turn))
        top = (picture.height - high) * (0.5 + 0.5 * math.cos(turn))
        view = picture.resize((width, height), PIL.Image.Resampling.BICUBIC, (left, top, left + wide, top + high))
        yield np.array(view, np.uint8)
