"""Pictures larger than a tile: the same symbols, no visible seams, and no tensor of the whole picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.bundle import shipped_bundles
from engines.tiles import Windows
from runtime import Codec

SIDE = 512  # of tiles here; 2,048 otherwise


@pytest.fixture(scope="module", params=shipped_bundles())
def codec(request: pytest.FixtureRequest) -> Iterator[Codec]:
    with Codec.open(request.param) as opened:
        yield opened


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """2,048x2,048 of slopes, waves of many scales, edges and noise."""
    row, column = np.mgrid[0:2048, 0:2048].astype(np.float32)
    waves = 128 + 50 * np.sin(row / 90) * np.cos(column / 130) + 25 * np.sin((row + 2 * column) / 9)
    edges = 40 * ((row // 150 + column // 210) % 2)
    noise = np.random.default_rng(0).normal(0, 4, (2048, 2048)).astype(np.float32)
    planes = [waves + edges + noise, waves - edges + noise, 255 - waves + noise]
    return np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)


def psnr(image: NDArray[np.uint8], other: NDArray[np.uint8] | None) -> float:
    assert other is not None
    return float(10 * np.log10(255**2 / np.mean((image.astype(np.float32) - other) ** 2)))


def test_tiles_cost_nothing_and_show_no_seams(
    codec: Codec, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stream decoded in tiles and in one run: 0.05 dB at most, also around the seams, which differ by 1 at most."""
    stream = codec.encode(image).stream
    whole = codec.decode(stream).image
    for place in ("runtime.model.TILE_SIDE", "runtime.encoder.TILE_SIDE"):
        monkeypatch.setattr(place, SIDE)
    tiled = codec.decode(stream).image
    assert whole is not None and tiled is not None
    assert abs(psnr(image, tiled) - psnr(image, whole)) <= 0.05
    assert np.abs(tiled.astype(np.int16) - whole).max() <= 1  # rounding of floats, nowhere more
    encoded_in_tiles = codec.encode(image).stream
    assert abs(len(encoded_in_tiles) / len(stream) - 1) < 1e-3
    assert abs(psnr(image, codec.decode(encoded_in_tiles).image) - psnr(image, whole)) <= 0.05


def test_exact_graphs_give_the_same_bits_in_tiles(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every exact graph on integers up to its limits: in tiles, and given window by window."""
    model = codec.model
    for role, spec in model.bundle.graphs.items():
        if not spec.exact or spec.tiling is None:
            continue
        (limits,) = model.family.input_limits(role).values()
        size = len(limits), *(side * 16 // spec.tiling.pixels for side in (67, 91))
        limit = limits[:, None, None].astype(np.int64)
        given = np.random.default_rng(0).integers(-limit, limit + 1, size).astype(np.float32)[None]
        with monkeypatch.context() as changed:
            changed.setattr("runtime.model.TILE_SIDE", 1 << 15)
            whole = model.run(role, given)
            changed.setattr("runtime.model.TILE_SIDE", SIDE)
            for source in (given, windows(given)):
                tiled = model.run(role, source)
                assert all(one.dtype == np.int16 for one in tiled)
                assert all(np.array_equal(one, other) for one, other in zip(tiled, whole, strict=True)), role


def windows(x: NDArray[np.float32]) -> Windows:
    return Windows(x.shape, lambda rows, columns: np.ascontiguousarray(x[:, :, rows, columns]))
