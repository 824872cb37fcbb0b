from __future__ import annotations

from collections.abc import Callable

import numpy as np
import PIL.features
import pytest

from runtime.errors import PictureError
from runtime.evaluate.codecs import Codec
from runtime.evaluate.peers import Jpeg2000, ProgressiveJpeg, SingleRate
from runtime.evaluate.peers.saving import saved
from runtime.evaluate.peers.single_rate import AVIF, WEBP

PEERS: list[tuple[str, str, Callable[[], Codec], int]] = [
    ("JPEG", "jpg", lambda: ProgressiveJpeg(75), 65_500),
    ("JPEG2000", "jpg_2000", Jpeg2000, 32_768),
    ("WEBP", "webp", lambda: SingleRate(WEBP), 16_383),
    ("AVIF", "avif", lambda: SingleRate(AVIF), 32_768),
]


@pytest.mark.parametrize(("name", "feature", "make", "longest"), PEERS, ids=[peer[0] for peer in PEERS])
def test_pictures_too_long_for_a_format_are_refused(
    name: str, feature: str, make: Callable[[], Codec], longest: int
) -> None:
    """The longest side that is held comes back as large as it was; a pixel more is one error of ours."""
    if not PIL.features.check(feature):
        pytest.skip(f"no {feature} here")
    codec = make()
    (delivery,) = codec.deliver(np.zeros((1, longest), np.uint8), [100_000])
    assert delivery is not None
    decoded = codec.decode(delivery.data)
    assert decoded is not None and decoded.shape[:2] == (1, longest)
    with pytest.raises(PictureError, match=f"{name} .*{longest} pixels a side, not {longest + 1}x1"):
        codec.deliver(np.zeros((1, longest + 1), np.uint8), [100_000])


def test_what_a_library_refuses_is_an_error_of_the_picture() -> None:
    with pytest.raises(PictureError, match="JPEG cannot hold this picture of 1x65501: "):
        saved(np.zeros((65_501, 1), np.uint8), "JPEG", 1 << 20)
