"""Bundles whose graphs are not those of their family: missing, or with other outputs. One error, not a traceback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.bundle import Bundle
from runtime import Codec
from runtime.errors import BundleError

GOLDEN = Path(__file__).parents[1] / "golden"
STREAM = (GOLDEN / "valid" / "rgb.cut").read_bytes()  # 128 x 192 after padding
IMAGE = np.zeros((128, 192, 3), np.uint8)


@pytest.fixture
def tiny() -> Iterator[Codec]:
    """The tiny bundle, opened to be changed."""
    with Codec.open(GOLDEN / "tiny", threads=1) as opened:
        yield opened


class Giving:
    """An engine that gives the same whatever it is given."""

    def __init__(self, *outputs: NDArray[Any]) -> None:
        self._outputs = outputs

    def run(self, *_: object, within_s: float | None = None) -> Sequence[NDArray[Any]]:
        return self._outputs

    def close(self) -> None:
        pass


def zeros(*shape: int, kind: type[np.generic] = np.float32) -> NDArray[Any]:
    return np.zeros(shape, kind)


def give(codec: Codec, role: str, *outputs: NDArray[Any]) -> None:
    """Let the graph of *role* give *outputs*."""
    double: Any = Giving(*outputs)
    codec.model._engines[role] = double


@pytest.mark.parametrize("role", ["g_a", "h_a", "h_s", "g_s"])
def test_graphs_that_are_missing_are_named(tiny: Codec, role: str) -> None:
    """Whatever needs them first."""
    bundle = tiny.model.bundle
    graphs = {name: spec for name, spec in bundle.graphs.items() if name != role}
    tiny.model.bundle = replace(bundle, graphs=graphs)
    with pytest.raises(BundleError, match=f"bundle tiny has no graph '{role}'; it has "):
        tiny.encode(IMAGE)
        tiny.decode(STREAM)


def test_a_preview_network_that_is_missing_is_named(tiny: Codec) -> None:
    """Nobody needs it but those who ask for a preview."""
    bundle = tiny.model.bundle
    tiny.model.bundle = replace(bundle, graphs={"g_s": bundle.graphs["g_s"], "h_s": bundle.graphs["h_s"]})
    decoder = tiny.decoder()
    decoder.feed(STREAM)
    with pytest.raises(BundleError, match="has no graph 'preview'; it has g_s, h_s"):
        decoder.preview()


@pytest.mark.parametrize(
    ("role", "outputs"),
    [
        ("g_a", [zeros(1, 8, 8, 12), zeros(1, 8, 8, 12)]),
        ("h_a", []),
        ("h_s", [zeros(1, 8, 8, 12)]),
        ("h_s", [zeros(1, 8, 8, 12)] * 3),
        ("g_a", [zeros(8)]),
        ("g_s", [zeros(1, 3, 128, 192, kind=np.float64)]),
        ("g_s", [zeros(3, 128, 192)]),
    ],
)
def test_other_tensors_than_the_family_takes_are_refused(tiny: Codec, role: str, outputs: list[NDArray[Any]]) -> None:
    """Their number, type and dimensions."""
    give(tiny, role, *outputs)
    with pytest.raises(
        BundleError, match=f"graph '{role}' gives .*; its family takes {1 + (role == 'h_s')} of float32"
    ):
        tiny.encode(IMAGE)
        tiny.decode(STREAM)


@pytest.mark.parametrize(
    ("shape", "fault"),
    [
        ((1, 3, 64, 96), r"gives 64 x 96, not \(128, 192\)"),
        ((1, 3, 256, 384), r"gives 256 x 384, not \(128, 192\)"),
        ((1, 1, 128, 192), r"gives \(1, 1, 128, 192\), not \(1, 3, H, W\)"),
        ((2, 3, 128, 192), r"gives \(2, 3, 128, 192\), not \(1, 3, H, W\)"),
    ],
)
def test_pictures_of_another_shape_are_refused(tiny: Codec, shape: tuple[int, ...], fault: str) -> None:
    """What the last network gives is a picture of the padded size."""
    give(tiny, "g_s", zeros(*shape))
    with pytest.raises(BundleError, match=f"graph 'g_s' {fault}"):
        tiny.decode(STREAM)


@pytest.mark.parametrize("shape", [(1, 4, 64, 96), (2, 3, 64, 96)])
def test_previews_without_three_channels_are_refused(tiny: Codec, shape: tuple[int, ...]) -> None:
    """Of the size of which a preview may be."""
    give(tiny, "preview", zeros(*shape))
    decoder = tiny.decoder()
    decoder.feed(STREAM)
    with pytest.raises(BundleError, match=r"graph 'preview' gives .*, not \(1, 3, H, W\)"):
        decoder.preview()


def test_tiles_without_three_channels_are_refused(
    tiny: Codec, tiny_in_tiles: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures that are larger than a tile, too."""
    tiny.model.bundle = tiny_in_tiles
    monkeypatch.setattr("runtime.model.TILE_SIDE", 64)
    give(tiny, "g_s", zeros(1, 4, 64, 64))
    with pytest.raises(BundleError, match=r"graph 'g_s' gives \(1, 4, 128, 192\), not \(1, 3, H, W\)"):
        tiny.decode(STREAM)
