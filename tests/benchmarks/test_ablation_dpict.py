"""Variants of dpict's order of trits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ablation_dpict import TritVariant, raster
from numpy.typing import NDArray

TINY = Path(__file__).parents[1] / "golden" / "tiny"


def test_another_order_is_another_stream_of_the_same_picture(photographs: dict[str, NDArray[np.uint8]]) -> None:
    """Whole streams show the same; what ends before its head segment does shows nothing."""
    image = np.ascontiguousarray(photographs["chelsea"][100:164, 100:180])
    priority, by_place = (TritVariant(name, TINY, plane, post=True) for name, plane in
                          (("priority", None), ("raster", raster)))  # fmt: skip
    assert (priority.name, by_place.name) == ("priority", "raster")
    first, second = priority.encode(image), by_place.encode(image)
    assert first != second
    shown = priority.decode(first)
    assert shown is not None and np.array_equal(shown, by_place.decode(second))
    assert by_place.decode(second[:30]) is None
