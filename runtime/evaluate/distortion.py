"""How far a picture is from its original: PSNR and MS-SSIM, with numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.picture import Image

Map = NDArray[np.float32]

_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _WINDOW_SIGMA = 11, 1.5
_C1, _C2 = np.float32((0.01 * 255) ** 2), np.float32((0.03 * 255) ** 2)
SHORTEST_SIDE = (_WINDOW - 1) * 2 ** (len(_SCALE_WEIGHTS) - 1) + 1  # 161: the window fits into the smallest scale


def psnr(image: Image, original: Image) -> float:
    """Return 10 log10(255^2 / MSE) in dB, the mean taken over all samples; infinite for equal pictures.

    Args:
        image, original: uint8, both (H, W, 3) or both (H, W).
    """
    difference = image.astype(np.int32) - original
    mean_square = float(np.square(difference).mean())
    return float(10 * np.log10(255**2 / mean_square)) if mean_square else float("inf")


def ms_ssim(image: Image, original: Image) -> float | None:
    """Return the multi-scale structural similarity, 0..1, or None if the shorter side is under `SHORTEST_SIDE` pixels.

    Each channel is compared by itself, and the values of the channels are averaged. Windows lie inside the picture;
    scales are halved by 2x2 means, an odd side getting a line of zeros in front; negative means count as zero. These
    choices are those of pytorch-msssim, with which learned codecs are usually measured.

    Args:
        image, original: uint8, both (H, W, 3) or both (H, W).

    Source: Z. Wang, E. P. Simoncelli, A. C. Bovik, "Multiscale structural similarity for image quality assessment",
    Asilomar 2003, equation 7 and section 3.2 for the weights.
    """
    if min(original.shape[:2]) < SHORTEST_SIDE:
        return None
    x, y = (np.atleast_3d(picture).astype(np.float32) for picture in (image, original))
    return float(np.mean([_ms_ssim_of_plane(x[..., channel], y[..., channel]) for channel in range(y.shape[2])]))


def decibels(similarity: float) -> float:
    """Return -10 log10(1 - *similarity*): MS-SSIM on the scale on which codecs are plotted; infinite for 1."""
    return float(-10 * np.log10(1 - similarity)) if similarity < 1 else float("inf")


def _ms_ssim_of_plane(x: Map, y: Map) -> float:
    total, difference = x + y, x - y
    result = 1.0
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        if scale:
            total, difference = _halved(total), _halved(difference)
        similarity, contrast = _similarities(total, difference)
        last = scale == len(_SCALE_WEIGHTS) - 1
        result *= max(0.0, similarity if last else contrast) ** weight
    return result


def _similarities(total: Map, difference: Map) -> tuple[float, float]:
    """Return the means of SSIM and of its contrast and structure term, for x and y given as x + y and x - y.

    Two filtered squares then stand for the three of x, y and xy:
    2 cov(x, y) = (var(x + y) - var(x - y)) / 2 and var(x) + var(y) = (var(x + y) + var(x - y)) / 2.
    """
    mean_total, variance_total = _moments(total)
    mean_difference, variance_difference = _moments(difference)
    contrast = (variance_total - variance_difference) / 2 + _C2
    contrast /= (variance_total + variance_difference) / 2 + _C2
    mean_total *= mean_total
    mean_difference *= mean_difference
    luminance = (mean_total - mean_difference) / 2 + _C1
    luminance /= (mean_total + mean_difference) / 2 + _C1
    return float((luminance * contrast).mean(dtype=np.float64)), float(contrast.mean(dtype=np.float64))


def _moments(x: Map) -> tuple[Map, Map]:
    """Return the windowed mean and variance of *x*, float32 (H, W), where the window lies inside: (H - 10, W - 10)."""
    offset = x.mean(dtype=np.float64).astype(np.float32)  # squares of centred values keep more of float32's digits
    centred = x - offset
    square: Map = centred * centred
    mean, variance = _windowed(centred), _windowed(square)
    variance -= mean * mean
    mean += offset
    return mean, variance


def _windowed(x: Map) -> Map:
    """Return *x* under the normalised Gaussian window, where it lies inside."""
    weights = _window_weights()
    return _weighted(_weighted(x, weights, 0), weights, 1)


def _window_weights() -> Map:
    distance = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(distance**2) / (2 * _WINDOW_SIGMA**2))
    normalised: Map = (weights / weights.sum()).astype(np.float32)
    return normalised


def _weighted(x: Map, weights: Map, axis: int) -> Map:
    """Return the sums of *x*, float32 (H, W), with symmetric *weights*, odd in number, along *axis*."""
    reach = len(weights) // 2
    size = x.shape[axis] - 2 * reach

    def shifted(by: int) -> Map:
        return x[by : by + size] if axis == 0 else x[:, by : by + size]

    result: Map = shifted(reach) * weights[reach]
    pair = np.empty_like(result)
    for i in range(reach):
        np.add(shifted(i), shifted(2 * reach - i), out=pair)
        pair *= weights[i]
        result += pair
    return result


def _halved(x: Map) -> Map:
    """Return 2x2 means of *x*, float32 (H, W), with zeros in front of an odd side: ((H + 1) // 2, (W + 1) // 2)."""
    if x.shape[0] % 2 or x.shape[1] % 2:
        x = np.pad(x, ((x.shape[0] % 2, 0), (x.shape[1] % 2, 0)))
    rows = x[::2] + x[1::2]
    means: Map = (rows[:, ::2] + rows[:, 1::2]) * np.float32(0.25)
    return means
