from __future__ import annotations

import dataclasses

import numpy as np
import PIL.features
import pytest
from numpy.typing import NDArray

from runtime.errors import MissingExtra
from runtime.evaluate.distortion import psnr
from runtime.evaluate.peers.single_rate import AVIF, WEBP, Format, SingleRate

Image = NDArray[np.uint8]
FORMATS = [
    pytest.param(kind, marks=pytest.mark.skipif(not PIL.features.check(kind.feature), reason=f"no {kind.feature} here"))
    for kind in (WEBP, AVIF)
]


@pytest.mark.parametrize("kind", FORMATS)
def test_more_bytes_give_a_better_picture(kind: Format, chelsea: Image) -> None:
    """Every budget has a file of its own that fits, and there is no whole stream."""
    codec, image = SingleRate(kind), np.ascontiguousarray(chelsea[:128, :160])
    assert not codec.progressive
    budgets = (1500, 3000, 6000)
    *deliveries, whole = codec.deliver(image, (*budgets, None))
    assert whole is None
    values = []
    for delivery, budget in zip(deliveries, budgets, strict=True):
        assert delivery is not None and len(delivery.data) <= budget
        decoded = codec.decode(delivery.data)
        assert decoded is not None and decoded.shape == image.shape
        values.append(psnr(decoded, image))
    assert values == sorted(values) and values[0] > 20


@pytest.mark.skipif(not PIL.features.check("avif"), reason="no avif here")
def test_avif_is_made_for_what_is_measured(chelsea: Image) -> None:
    """As libavif tunes by itself, the same bytes give a lower PSNR."""
    looks = dataclasses.replace(AVIF, options={k: v for k, v in AVIF.options.items() if k != "advanced"})
    image = np.ascontiguousarray(chelsea[:256, :256])
    reached = []
    for kind in (looks, AVIF):
        codec = SingleRate(kind)
        (delivery,) = codec.deliver(image, [8000])
        assert delivery is not None
        decoded = codec.decode(delivery.data)
        assert decoded is not None
        reached.append(psnr(decoded, image))
    assert reached[1] > reached[0] + 0.2
    assert SingleRate(AVIF).identity()["advanced"] == {"tune": "psnr"}


@pytest.mark.parametrize("kind", FORMATS)
def test_cut_files_show_nothing(kind: Format, chelsea: Image) -> None:
    codec = SingleRate(kind)
    (delivery,) = codec.deliver(np.ascontiguousarray(chelsea[:64, :64]), [4000])
    assert delivery is not None and codec.decode(delivery.data) is not None
    assert codec.decode(delivery.data[: len(delivery.data) // 2]) is None
    assert codec.decode(b"") is None


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_fits_a_budget_too_small(kind: Format, chelsea: Image) -> None:
    (delivery,) = SingleRate(kind).deliver(chelsea[:64, :64], [10])
    assert delivery is not None and delivery.data == b""


@pytest.mark.parametrize("kind", FORMATS)
def test_identity_names_the_library(kind: Format) -> None:
    assert SingleRate(kind).identity()["library"].startswith(kind.feature)


def test_a_pillow_without_the_library() -> None:
    with pytest.raises(MissingExtra, match=r"pip install '\.\[eval\]' in the checkout"), pytest.warns(UserWarning):
        SingleRate(Format("NONE", "none", 1, {}))
