"""Pictures for verbs that were given none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.cli.samples import camera_pictures

Image = NDArray[np.uint8]


def test_camera_looks_at_each_picture_in_turn() -> None:
    """An equal share of the views shows each of them, whatever its size, and nothing else."""
    plain = [np.full((h, w, 3), level, np.uint8) for h, w, level in ((40, 90, 10), (200, 30, 60), (64, 64, 200))]
    views = list(camera_pictures(plain, 48, 32, 12))
    assert [view.shape for view in views] == [(32, 48, 3)] * 12
    assert [int(view.min()) for view in views] == [10] * 4 + [60] * 4 + [200] * 4
    assert [int(view.max()) for view in views] == [int(view.min()) for view in views]


def test_camera_moves_and_moves_always_alike(photographs: dict[str, Image]) -> None:
    """No two views are the same, and a second round gives the same ones."""
    first = list(camera_pictures([photographs["coffee"]], 60, 40, 8))
    again = list(camera_pictures([photographs["coffee"]], 60, 40, 8))
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert all(not np.array_equal(one, other) for one, other in itertools.pairwise(first))


@pytest.mark.parametrize("count", [0, 1])
def test_few_views_are_fine(photographs: dict[str, Image], count: int) -> None:
    """As many as asked for."""
    assert len(list(camera_pictures(list(photographs.values()), 60, 40, count))) == count
