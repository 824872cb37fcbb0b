from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.evaluate.distortion import SHORTEST_SIDE, decibels, ms_ssim, psnr

Image = NDArray[np.uint8]


def coarse(image: Image) -> Image:
    return image // 32 * 32 + 16


def blurred(image: Image) -> Image:
    wide = image.astype(np.uint16)
    return ((wide + np.roll(wide, 1, 0) + np.roll(wide, 2, 1) + np.roll(wide, 3, 0) + 2) // 4).astype(np.uint8)


def noisy(image: Image) -> Image:
    row, column, channel = np.ogrid[: image.shape[0], : image.shape[1], : image.shape[2]]
    noise = (row * 7919 + column * 104729 + channel * 1299709 + row * column * 31) % 81 - 40
    return np.clip(image.astype(np.int64) + noise, 0, 255).astype(np.uint8)


def negative(image: Image) -> Image:
    return 255 - image


CASES: list[tuple[str, Callable[[Image], Image], float]] = [
    # Values of `direct_ms_ssim`, which needs torch.
    ("chelsea", coarse, 0.93388901),
    ("chelsea", blurred, 0.96051090),
    ("chelsea", noisy, 0.81942291),
    ("chelsea", negative, 0.0),
    ("astronaut", coarse, 0.95328781),
    ("astronaut", blurred, 0.96804203),
    ("astronaut", noisy, 0.84842302),
    ("astronaut", negative, 0.0),
]


def direct_ms_ssim(image: Image, original: Image) -> float:
    """Wang, Simoncelli and Bovik 2003, word for word in float64: a two-dimensional window, five maps a scale."""
    torch = pytest.importorskip("torch")
    x, y = (torch.tensor(np.atleast_3d(p), dtype=torch.float64).permute(2, 0, 1)[:, None] for p in (image, original))
    distance = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-(distance[:, None] ** 2 + distance[None] ** 2) / (2 * 1.5**2))
    window = (window / window.sum())[None, None]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    product = 1.0
    for scale, exponent in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333), start=1):
        mean_x, mean_y, mean_xx, mean_yy, mean_xy = (
            torch.nn.functional.conv2d(signal, window) for signal in (x, y, x * x, y * y, x * y)
        )
        variance_x, variance_y = mean_xx - mean_x**2, mean_yy - mean_y**2
        covariance = mean_xy - mean_x * mean_y
        term = (2 * covariance + c2) / (variance_x + variance_y + c2)
        if scale == 5:
            term = term * (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        product = product * term.mean(dim=(1, 2, 3)).clamp(min=0) ** exponent
        odd = [side % 2 for side in x.shape[2:]]
        x, y = (torch.nn.functional.avg_pool2d(signal, 2, padding=odd) for signal in (x, y))
    return float(product.mean())


@pytest.mark.parametrize(
    ("photograph", "distort", "expected"), CASES, ids=lambda value: getattr(value, "__name__", None)
)
def test_ms_ssim_has_stored_reference_values(
    photograph: str, distort: Callable[[Image], Image], expected: float, request: pytest.FixtureRequest
) -> None:
    """The value is that of a direct implementation, on even and odd sizes, down to where a scale counts as zero."""
    original = request.getfixturevalue(photograph)
    assert ms_ssim(distort(original), original) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("height", [161, 199])
@pytest.mark.parametrize("distort", [coarse, blurred, noisy])
def test_ms_ssim_equals_a_direct_implementation(height: int, distort: Callable[[Image], Image], chelsea: Image) -> None:
    """Separable windows in float32 give what two-dimensional ones in float64 give."""
    original = chelsea[:height, :202]
    assert ms_ssim(distort(original), original) == pytest.approx(direct_ms_ssim(distort(original), original), abs=1e-5)


def test_ms_ssim_of_grey_is_that_of_its_one_channel(chelsea: Image) -> None:
    grey = chelsea[..., 1]
    three = np.repeat(grey[..., None], 3, axis=2)
    assert ms_ssim(coarse(grey), grey) == pytest.approx(ms_ssim(coarse(three), three), abs=1e-12)


def test_ms_ssim_of_equal_pictures_is_one(chelsea: Image) -> None:
    assert ms_ssim(chelsea, chelsea) == 1.0


def test_ms_ssim_needs_161_pixels(chelsea: Image) -> None:
    """The window does not fit into the smallest scale of a smaller picture."""
    assert SHORTEST_SIDE == 161
    assert ms_ssim(chelsea[:160], chelsea[:160]) is None
    assert ms_ssim(chelsea[:161], chelsea[:161]) == 1.0


def test_ms_ssim_is_fast_enough(chelsea: Image) -> None:
    """A picture of 768x512 takes under 0.3 s."""
    original = np.resize(chelsea, (512, 768, 3))
    image = coarse(original)
    best = min(_seconds(lambda: ms_ssim(image, original)) for _ in range(3))
    assert best < 0.3


def _seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def test_psnr_is_from_the_mean_square_over_all_samples() -> None:
    original = np.zeros((4, 5, 3), np.uint8)
    image = original.copy()
    image[0, 0, 0] = 30  # mean square 900 / 60
    assert psnr(image, original) == pytest.approx(10 * np.log10(255**2 / 15))


def test_psnr_of_opposite_pictures_is_zero() -> None:
    """Differences of 255 do not wrap."""
    black, white = np.zeros((3, 3), np.uint8), np.full((3, 3), 255, np.uint8)
    assert psnr(black, white) == pytest.approx(0.0)
    assert psnr(white, black) == pytest.approx(0.0)


def test_psnr_of_equal_pictures_is_infinite(chelsea: Image) -> None:
    assert psnr(chelsea, chelsea) == float("inf")


def test_decibels() -> None:
    assert decibels(0.99) == pytest.approx(20.0)
    assert decibels(1.0) == float("inf")
