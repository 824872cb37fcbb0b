"""Pictures between the caller's bytes and the networks' tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.tiles import Source, Windows
from runtime.errors import LimitExceeded, PictureError
from runtime.families.base import Tensor

Image = NDArray[np.uint8]
LONGEST_SIDE = 65_535
_BAND_PIXELS = 1 << 16  # converted at a time, so that what is in between stays in the cache


def check_image(image: Image, most_pixels: int) -> None:
    """Refuse what cannot be coded.

    Raises:
        PictureError: not uint8 of shape (H, W, 3) or (H, W), or a side is 0 or above LONGEST_SIDE.
        LimitExceeded: more than *most_pixels* pixels.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise PictureError(f"a picture is a uint8 array, not {getattr(image, 'dtype', type(image).__name__)}")
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise PictureError(f"a picture has shape (H, W, 3) or (H, W), not {image.shape}")
    height, width = image.shape[:2]
    if not (1 <= height <= LONGEST_SIDE and 1 <= width <= LONGEST_SIDE):
        raise PictureError(f"a picture is 1 to {LONGEST_SIDE} pixels a side, not {width}x{height}")
    if width * height > most_pixels:
        raise LimitExceeded(f"the picture is {width}x{height} = {width * height} pixels; allowed: {most_pixels}")


def padded_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """Return the smallest multiples of *stride* that hold *height* and *width*."""
    return -(-height // stride) * stride, -(-width // stride) * stride


def source_from_image(image: Image, stride: int, most_pixels: int) -> Source:
    """Return what `tensor_from_image` returns; of more than *most_pixels* pixels made window by window."""
    height, width = padded_size(image.shape[0], image.shape[1], stride)
    if height * width <= most_pixels:
        return tensor_from_image(image, stride)

    def make(rows: slice, columns: slice) -> Tensor:
        # Padding repeats the last row and column, also where a window holds nothing else.
        top, left = min(rows.start, image.shape[0] - 1), min(columns.start, image.shape[1] - 1)
        part = image[top : rows.stop, left : columns.stop]
        return _filled(part, rows.stop - rows.start, columns.stop - columns.start)

    return Windows((1, 3, height, width), make)


def tensor_from_image(image: Image, stride: int) -> Tensor:
    """Return *image* as float32 (1, 3, H, W) in 0..1, its last row and column repeated up to multiples of *stride*."""
    return _filled(image, *padded_size(image.shape[0], image.shape[1], stride))


def _filled(image: Image, full_height: int, full_width: int) -> Tensor:
    height, width = image.shape[:2]
    x = np.empty((1, 3, full_height, full_width), np.float32)
    planes = image.transpose(2, 0, 1) if image.ndim == 3 else image[None]
    np.multiply(planes, np.float32(1 / 255), out=x[0, :, :height, :width])
    x[0, :, :height, width:] = x[0, :, :height, width - 1 : width]
    x[0, :, height:] = x[0, :, height - 1 : height]
    return x


def image_from_tensor(x: Tensor | NDArray[np.uint8], height: int, width: int, *, grey: bool) -> Image:
    """Return the upper left of *x* as uint8 (height, width, 3) or (height, width).

    Args:
        x: (1, 3, H, W); float32 about 0..1, or the `levels` of that.
    """
    image = np.empty((height, width) if grey else (height, width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        inside = x[0, :, top : min(top + rows, height), :width]
        band = inside if x.dtype == np.uint8 else levels(inside)
        if grey:
            image[top : top + rows] = np.rint(band.mean(axis=0, dtype=np.float32)).astype(np.uint8)
            continue
        for channel in range(3):  # numpy takes four times as long to exchange axes itself
            image[top : top + rows, :, channel] = band[channel]
    return image


def levels(x: NDArray[Any]) -> NDArray[np.uint8]:
    """Return *x*, of any shape, as grey levels: 0..1 become 0..255, rounded, and what is beyond is cut off."""
    scaled = x * np.float32(255)
    scaled += np.float32(0.5)
    np.clip(scaled, 0, 255, out=scaled)  # the conversion cuts off, so that 255.5 would wrap
    result: NDArray[np.uint8] = scaled.astype(np.uint8)
    return result


def enlarged(x: Tensor | NDArray[np.uint8], factor: int, height: int, width: int) -> Tensor | NDArray[np.uint8]:
    """Return *x* enlarged *factor* times (bilinear) and cut to *height* x *width*.

    Args:
        x: (1, C, h, w); float32 about 0..1, or the `levels` of that.
    """
    if factor == 1:
        return x[:, :, :height, :width]
    values = x.astype(np.float32) * np.float32(1 / 255) if x.dtype == np.uint8 else x.astype(np.float32, copy=False)
    wide = _interpolated(values.swapaxes(2, 3), factor)[:, :, :width]  # (1, C, W, h): first along what is short
    return _interpolated(wide.swapaxes(2, 3), factor)[:, :, :height]


def _interpolated(x: Tensor, factor: int) -> Tensor:
    """Return *x* with *factor* times as many rows, positions between two of them weighted by their distance."""
    above = np.concatenate([x[:, :, :1], x[:, :, :-1]], axis=2)
    below = np.concatenate([x[:, :, 1:], x[:, :, -1:]], axis=2)
    result = np.empty((*x.shape[:2], x.shape[2] * factor, x.shape[3]), np.float32)
    for phase in range(factor):
        offset = (phase + 0.5) / factor - 0.5
        neighbour = above if offset < 0 else below
        result[:, :, phase::factor] = x + (neighbour - x) * np.float32(abs(offset))
    return result
