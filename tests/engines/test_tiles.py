"""Running graphs in tiles gives what one run gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from engines.engine import Tensor
from engines.errors import BundleError
from engines.manifest import Tiling
from engines.tiles import run_in_tiles


def neighbours(x: Tensor) -> Tensor:
    """Sum of 3x3 neighbours twice over: a reach of 2."""
    for _ in range(2):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        height, width = x.shape[2:]
        x = sum(padded[:, :, r : r + height, c : c + width] for r in range(3) for c in range(3))  # type: ignore[assignment]
    return x


class Counting:
    """A graph of two inputs and two outputs, one of half and one of twice the size, that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.largest = 0

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        self.runs += 1
        self.largest = max(self.largest, inputs[0].size)
        seen = neighbours(inputs[0] + 3 * inputs[1])
        return seen[:, :, ::2, ::2], seen.repeat(2, axis=2).repeat(2, axis=3)


@pytest.mark.parametrize("size", [(8, 8), (32, 34), (50, 16), (16, 66), (70, 70)])
def test_tiles_give_what_one_run_gives(size: tuple[int, int]) -> None:
    """Every value, at seams and edges too, for sizes that tiles divide or do not."""
    generator = np.random.default_rng(0)
    inputs = [generator.integers(-9, 9, (1, 2, *size)).astype(np.float32) for _ in range(2)]
    graph = Counting()
    found = run_in_tiles(graph, inputs, Tiling(pixels=4, multiple=2, reach=2), side_pixels=64)
    assert graph.runs == -(-size[0] // 16) * -(-size[1] // 16)
    for one, other in zip(found, Counting()(*inputs), strict=True):
        assert np.array_equal(one, other)


def test_a_reach_too_short_shows() -> None:
    """The check above can fail: with surroundings of one position, seams differ."""
    x = np.random.default_rng(0).integers(-9, 9, (1, 1, 40, 40)).astype(np.float32)
    found = run_in_tiles(lambda one: [neighbours(one)], [x], Tiling(1, 1, 1), side_pixels=16)
    assert not np.array_equal(found[0], neighbours(x))


def test_what_fits_a_tile_is_one_run() -> None:
    """No copies, no surroundings."""
    x = np.zeros((1, 1, 16, 16), np.float32)
    assert run_in_tiles(lambda one: [one], [x], Tiling(1, 16, 99), side_pixels=16)[0] is x


def test_feature_maps_stay_small() -> None:
    """No run sees more than a tile and its surroundings."""
    graph = Counting()
    x = np.zeros((1, 1, 200, 200), np.float32)
    run_in_tiles(graph, [x, x], Tiling(1, 2, 2), side_pixels=32)
    assert graph.largest == 36 * 36


@pytest.mark.parametrize(
    "shape",
    [
        lambda height, width: (1, 3, 8, 8),
        lambda height, width: (1, 3, height - 2, width - 2),
        lambda height, width: (1, width, height, width),
        lambda height, width: (1, 1, height, 3 * width),
        lambda height, width: (height, width),
    ],
    ids=["constant", "cropped", "channels", "stretched", "flat"],
)
def test_graphs_that_do_not_fit_their_tiling_are_refused(shape: Callable[[int, int], tuple[int, ...]]) -> None:
    """A bundle may claim anything; a graph whose outputs are no fixed ratio of its inputs is found out."""
    x = np.zeros((1, 2, 10, 13), np.float32)
    with pytest.raises(BundleError, match="the graph does not fit its tiling"):
        run_in_tiles(lambda one: [np.zeros(shape(*one.shape[2:]), np.float32)], [x], Tiling(16, 1, 1), side_pixels=64)
