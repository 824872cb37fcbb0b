"""Cropping, scaling, grey."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_client.settings import PictureSettings
from edge_client.shaping import scaled, shaped
from runtime.errors import ConfigurationError
from runtime.picture import check_image

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_nothing_asked_changes_nothing() -> None:
    """The same picture, ready to be encoded."""
    assert np.array_equal(shaped(IMAGE, PictureSettings(), cv2), IMAGE)


def test_crop_takes_a_part() -> None:
    """x, y, width, height."""
    assert np.array_equal(shaped(IMAGE, PictureSettings((10, 20, 30, 25)), cv2), IMAGE[20:45, 10:40])


@pytest.mark.parametrize(
    ("most", "shape"), [((40, 0), (30, 40)), ((0, 20), (20, 27)), ((40, 20), (20, 27)), ((500, 500), (60, 80))]
)
def test_picture_is_made_smaller_in_proportion_never_larger(most: tuple[int, int], shape: tuple[int, int]) -> None:
    """Within the largest width and height."""
    assert shaped(IMAGE, PictureSettings(width=most[0], height=most[1]), cv2).shape[:2] == shape


def test_grey_has_one_channel() -> None:
    """By the weights of luma; a grey source stays as it is."""
    grey = shaped(IMAGE, PictureSettings(grey=True), cv2)
    assert grey.shape == (60, 80)
    assert np.array_equal(shaped(grey, PictureSettings(grey=True), cv2), grey)


@pytest.mark.parametrize("factor", [1.0, 0.5, 0.01])
def test_scaled_pictures_can_be_encoded(factor: float) -> None:
    """At least a pixel is left; half the size is the mean of four."""
    smaller = scaled(IMAGE[::2], factor, cv2)
    check_image(smaller, 10**6)
    if factor == 0.5:
        assert smaller[0, 0, 0] == pytest.approx(IMAGE[::2][:2, :2, 0].mean(), abs=1)


def test_crop_outside_the_picture_is_an_error() -> None:
    """It names the setting and the picture's size."""
    with pytest.raises(ConfigurationError, match=r"picture.crop .* 80x60"):
        shaped(IMAGE, PictureSettings((60, 0, 30, 10)), cv2)
