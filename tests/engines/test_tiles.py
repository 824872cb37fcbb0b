"""Running graphs in tiles gives what one run gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from engines.engine import Tensor
from engines.errors import BundleError
from engines.manifest import Tiling
from engines.tiles import output_windows, run_in_tiles


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


def test_what_holds_everywhere_goes_to_every_tile() -> None:
    """An input of one position is not cut: every tile adds the same, and all of it."""
    generator = np.random.default_rng(1)
    x, means = (generator.integers(-9, 9, (1, 2, *size)).astype(np.float32) for size in ((70, 34), (1, 1)))

    def run(one: Tensor, other: Tensor) -> Sequence[Tensor]:
        return [neighbours(one) + other]

    found = run_in_tiles(run, [x, means], Tiling(pixels=4, multiple=2, reach=2), side_pixels=64)
    assert np.array_equal(found[0], run(x, means)[0])


@pytest.mark.parametrize("larger", [1, 2])
def test_windows_of_an_output_are_parts_of_it(larger: int) -> None:
    """Any part, at any place, is that of one run, however large the output is, and no run sees more than it needs."""
    x = np.random.default_rng(2).integers(-9, 9, (1, 2, 50, 34)).astype(np.float32)
    sizes = []

    def run(one: Tensor) -> Sequence[Tensor]:
        sizes.append(one.shape[2] * one.shape[3])
        return [neighbours(one).repeat(larger, axis=2).repeat(larger, axis=3)]

    whole = run(x)[0]
    made = output_windows(run, [x], Tiling(pixels=4, multiple=2, reach=2))
    assert made.shape == whole.shape and np.array_equal(np.asarray(made), whole)
    sizes.clear()
    for top, bottom, left, right in ((0, 10, 0, 9), (13, 20, 7, 8), (41, 50, 25, 34)):
        part = made[:, :, top:bottom, left:right]
        assert part.flags.c_contiguous and np.array_equal(part, whole[:, :, top:bottom, left:right])
    assert max(sizes) <= 16 * 16
    tiles = run_in_tiles(lambda one: [neighbours(one)], [made], Tiling(4 // larger, 2, 2), side_pixels=64)
    assert np.array_equal(tiles[0], neighbours(whole))


@pytest.mark.parametrize("cropped", [1, 5])
def test_windows_of_a_graph_that_does_not_fit_are_refused(cropped: int) -> None:
    """An output that is no fixed ratio of the input is found out as soon as a part is made."""
    x = np.zeros((1, 2, 50, 34), np.float32)
    with pytest.raises(BundleError, match="does not fit its tiling"):
        made = output_windows(lambda one: [one[:, :, : max(2, one.shape[2] - cropped)]], [x], Tiling(4, 2, 2))
        np.asarray(made[:, :, 10:50, 4:9])


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
