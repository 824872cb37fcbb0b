"""Pictures as tensors and back: what is refused, how edges are padded, how levels are rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import LimitExceeded, PictureError
from runtime.picture import (
    check_image,
    enlarged,
    image_from_tensor,
    levels,
    padded_size,
    source_from_image,
    tensor_from_image,
)


def random_image(height: int, width: int, *, grey: bool = False) -> Any:
    shape = (height, width) if grey else (height, width, 3)
    return np.random.default_rng(height * 1000 + width).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, np.float32, bool])
def test_other_types_than_uint8_are_refused(dtype: Any) -> None:
    """The error names the type."""
    with pytest.raises(PictureError, match=f"a uint8 array, not {np.dtype(dtype)}"):
        check_image(np.zeros((4, 4, 3), dtype), 100)


@pytest.mark.parametrize("thing", [None, [[1, 2], [3, 4]], b"png", 7])
def test_what_is_no_array_is_refused(thing: Any) -> None:
    """The error names what came instead."""
    with pytest.raises(PictureError, match=f"a uint8 array, not {type(thing).__name__}"):
        check_image(thing, 100)


@pytest.mark.parametrize("shape", [(), (4,), (4, 4, 1), (4, 4, 2), (4, 4, 4), (1, 4, 4, 3), (3, 4, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """The error names the shape."""
    with pytest.raises(PictureError, match="not \\("):
        check_image(np.zeros(shape, np.uint8), 100)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0, 0), (65_536, 1), (1, 65_536, 3)])
def test_sides_of_nothing_or_too_much_are_refused(shape: tuple[int, ...]) -> None:
    """The error names the size as width x height."""
    with pytest.raises(PictureError, match=f"1 to 65535 pixels a side, not {shape[1]}x{shape[0]}"):
        check_image(np.zeros(shape, np.uint8), 1 << 30)


def test_too_many_pixels_are_refused() -> None:
    """The limit itself is allowed."""
    check_image(np.zeros((10, 20, 3), np.uint8), 200)
    check_image(np.zeros((65_535, 1), np.uint8), 1 << 26)
    with pytest.raises(LimitExceeded, match="20x10 = 200 pixels; allowed: 199"):
        check_image(np.zeros((10, 20, 3), np.uint8), 199)


@given(st.integers(1, 65_535), st.integers(1, 65_535), st.sampled_from([1, 16, 64]))
def test_padded_size_is_the_next_multiple(height: int, width: int, stride: int) -> None:
    """Both sides are multiples of the stride that hold the picture, and no larger than needed."""
    for side, padded in zip((height, width), padded_size(height, width, stride), strict=True):
        assert padded % stride == 0 and side <= padded < side + stride


@given(st.integers(1, 140), st.integers(1, 140), st.booleans())
@settings(max_examples=30)
def test_image_comes_back_from_its_tensor(height: int, width: int, grey: bool) -> None:
    """All levels survive the way to 0..1 and back."""
    image = random_image(height, width, grey=grey)
    x = tensor_from_image(image, 64)
    assert x.dtype == np.float32 and x.shape == (1, 3, *padded_size(height, width, 64))
    assert x.min() >= 0 and x.max() <= 1
    assert (image_from_tensor(x, height, width, grey=grey) == image).all()


def test_every_level_comes_back() -> None:
    """0 to 255, each exactly."""
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (image_from_tensor(tensor_from_image(image, 64), 16, 16, grey=True) == image).all()


@pytest.mark.parametrize("size", [(1, 1), (63, 65), (64, 128), (2, 64)])
def test_padding_repeats_the_last_row_and_column(size: tuple[int, int]) -> None:
    """Beyond the picture stands its edge; the corner is the last pixel."""
    image = random_image(*size)
    x = tensor_from_image(image, 64)[0].transpose(1, 2, 0)
    height, width = x.shape[:2]
    expected = np.pad(image, ((0, height - size[0]), (0, width - size[1]), (0, 0)), mode="edge")
    assert (np.rint(x * 255) == expected).all()


def test_values_beyond_the_range_are_clamped() -> None:
    """A network's overshoot becomes black or white, without wrapping; halves go up."""
    values = np.array([-9.0, -0.001, 0.5 / 255, 0.49 / 255, 254.5 / 255, 1.0, 1.002, 9.0], np.float32)
    x = np.broadcast_to(values, (1, 3, 1, 8)).copy()
    assert image_from_tensor(x, 1, 8, grey=True).tolist() == [[0, 0, 1, 0, 255, 255, 255, 255]]
    assert image_from_tensor(x, 1, 8, grey=False)[0, :, 2].tolist() == [0, 0, 1, 0, 255, 255, 255, 255]


def test_grey_is_the_mean_of_the_channels() -> None:
    """A grey picture takes all three channels of the network's answer."""
    x = np.zeros((1, 3, 2, 2), np.float32)
    x[0, 0], x[0, 1], x[0, 2] = 0.2, 0.4, 0.9
    assert image_from_tensor(x, 2, 2, grey=True).tolist() == [[128, 128], [128, 128]]


@pytest.mark.parametrize("grey", [False, True])
def test_image_is_contiguous_and_of_its_own(grey: bool) -> None:
    """The picture that is handed out is no view of a tensor."""
    x = np.full((1, 3, 64, 64), 0.5, np.float32)
    image = image_from_tensor(x, 10, 20, grey=grey)
    assert image.flags.c_contiguous and not np.shares_memory(image, x)
    assert image.shape == ((10, 20) if grey else (10, 20, 3))


def test_enlarging_keeps_flat_pictures_and_ramps() -> None:
    """Bilinear interpolation leaves constants alone and makes straight lines of straight lines."""
    flat = enlarged(np.full((1, 3, 2, 3), 0.25, np.float32), 4, 8, 12)
    assert flat.shape == (1, 3, 8, 12) and (flat == 0.25).all()
    ramp = enlarged(np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8), 4, 4, 32)[0, 0, 0]
    assert np.allclose(np.diff(ramp[2:-2]), 0.25) and ramp[0] == 0 and ramp[-1] == 7


def test_enlarging_levels_is_enlarging_what_they_stand_for() -> None:
    """Grey levels of a small picture count as 0..1; of a picture of full size they stay what they are."""
    small = np.random.default_rng(1).integers(0, 256, (1, 3, 3, 4), np.uint8)
    assert np.allclose(enlarged(small, 4, 11, 15), enlarged(small.astype(np.float32) / 255, 4, 11, 15), atol=1e-6)
    assert np.array_equal(enlarged(small, 1, 2, 3), small[:, :, :2, :3])


def test_enlarging_agrees_with_a_plain_formula() -> None:
    """Each pixel is the weighted mean of the four nearest centres, edges repeated."""
    small = np.random.default_rng(0).random((1, 2, 3, 4)).astype(np.float32)
    large = enlarged(small, 4, 11, 15)
    assert large.shape == (1, 2, 11, 15)
    for row, column in ((0, 0), (5, 7), (10, 14), (2, 3), (9, 1)):
        y, x = np.clip((row + 0.5) / 4 - 0.5, 0, 2), np.clip((column + 0.5) / 4 - 0.5, 0, 3)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, 2), min(left + 1, 3)
        above = small[0, :, top, left] * (1 - x + left) + small[0, :, top, right] * (x - left)
        below = small[0, :, bottom, left] * (1 - x + left) + small[0, :, bottom, right] * (x - left)
        assert large[0, :, row, column] == pytest.approx(above * (1 - y + top) + below * (y - top), abs=1e-6)


@pytest.mark.parametrize("shape", [(100, 75, 3), (64, 128), (1, 1, 3)])
def test_windows_of_a_picture_are_parts_of_its_tensor(shape: tuple[int, ...]) -> None:
    """A picture that is too large to be converted at once gives the same values, in its padding too."""
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    whole, source = tensor_from_image(image, 64), source_from_image(image, 64, most_pixels=0)
    assert source.shape == whole.shape and np.array_equal(np.asarray(source), whole)
    for rows in (slice(0, 64), slice(32, whole.shape[2]), slice(whole.shape[2] - 8, whole.shape[2])):
        for columns in (slice(0, 40), slice(whole.shape[3] - 8, whole.shape[3])):
            assert np.array_equal(source[:, :, rows, columns], whole[:, :, rows, columns])
    assert np.array_equal(np.asarray(source_from_image(image, 64, most_pixels=1 << 16)), whole)


@pytest.mark.parametrize("grey", [False, True])
def test_levels_are_a_picture_too(grey: bool) -> None:
    """What large pictures become tile by tile makes the picture that their float32 values make."""
    x = np.random.default_rng(1).uniform(-0.2, 1.2, (1, 3, 64, 64)).astype(np.float32)
    if grey:
        x[:, 1:] = x[:, :1]
    assert np.array_equal(image_from_tensor(levels(x), 50, 61, grey=grey), image_from_tensor(x, 50, 61, grey=grey))


def test_grey_is_the_mean_of_levels() -> None:
    """As FORMAT.md has it: what is beyond black and white is cut off in each channel before it counts."""
    x = np.array([1.3, 0.4, 0.4], np.float32).reshape(1, 3, 1, 1)
    assert image_from_tensor(x, 1, 1, grey=True).tolist() == [[153]]
    assert image_from_tensor(levels(x), 1, 1, grey=True).tolist() == [[153]]
