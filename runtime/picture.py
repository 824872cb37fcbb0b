"""Pictures between the caller's bytes and the networks' tensors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.errors import LimitExceeded, PictureError
from runtime.families.base import Tensor

Image = NDArray[np.uint8]
LONGEST_SIDE = 65_535


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


def tensor_from_image(image: Image, stride: int) -> Tensor:
    """Return *image* as float32 (1, 3, H, W) in 0..1, its last row and column repeated up to multiples of *stride*."""
    height, width = image.shape[:2]
    full_height, full_width = padded_size(height, width, stride)
    x = np.empty((1, 3, full_height, full_width), np.float32)
    planes = image.transpose(2, 0, 1) if image.ndim == 3 else image[None]
    np.multiply(planes, np.float32(1 / 255), out=x[0, :, :height, :width])
    x[0, :, :height, width:] = x[0, :, :height, width - 1 : width]
    x[0, :, height:] = x[0, :, height - 1 : height]
    return x


def image_from_tensor(x: Tensor, height: int, width: int, *, grey: bool) -> Image:
    """Return the upper left of *x*, float32 (1, 3, H, W) about 0..1, as uint8 (height, width, 3) or (height, width)."""
    inside = x[0, :, :height, :width]
    if grey:
        inside = inside.mean(axis=0, keepdims=True)
    levels = inside * np.float32(255)
    levels += np.float32(0.5)
    np.clip(levels, 0, 255, out=levels)  # the conversion cuts off, so that 255.5 would wrap
    image = levels.astype(np.uint8)
    return image[0] if grey else np.ascontiguousarray(image.transpose(1, 2, 0))


def enlarged(x: Tensor, factor: int, height: int, width: int) -> Tensor:
    """Return *x*, float32 (1, C, h, w), enlarged *factor* times (bilinear) and cut to *height* x *width*."""
    wide = _interpolated(x.swapaxes(2, 3), factor)[:, :, :width]  # (1, C, W, h): first along what is short
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
