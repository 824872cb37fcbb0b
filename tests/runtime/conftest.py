"""Fixtures of the core's tests: golden files, their generator and the tiny bundle; pictures, streams, files of them;
a classifier.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from clockwork import COSTS, World, clockwork
from loading import module_at
from numpy.typing import NDArray

from engines.bundle import Bundle
from engines.manifest import Tiling
from runtime import Codec
from runtime.entropy.tables import Tables
from runtime.image_files import write_image

Image = NDArray[np.uint8]

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """The folder of golden files."""
    return GOLDEN


@pytest.fixture(scope="session")
def make_golden() -> ModuleType:
    """The generator of the golden files, as a module."""
    return module_at(GOLDEN / "make_golden.py")


@pytest.fixture(scope="session")
def onnx_writer() -> ModuleType:
    """The module that writes ONNX files, of the tests of engines."""
    return module_at(GOLDEN.parent / "engines" / "onnx_writer.py")


@pytest.fixture(scope="session")
def classifier_of_colours(onnx_writer: ModuleType) -> bytes:
    """A classifier of three classes: red, green, blue, by the mean over the picture; scores are ten times the means."""
    w = onnx_writer
    weight = 10 * np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    nodes = [
        w.node("GlobalAveragePool", ["image"], ["mean"]),
        w.node("Conv", ["mean", "weight"], ["scores"], {"kernel_shape": [1, 1]}),
        w.node("Flatten", ["scores"], ["logits"]),
    ]
    dims = b"".join(w.field(1, w.field(1 if isinstance(size, int) else 2, size)) for size in ("B", 3))
    logits = w.field(1, "logits") + w.field(2, w.field(1, w.field(1, w.FLOAT) + w.field(2, dims)))
    model: bytes = w.model(nodes, [w.tensor("weight", weight)], [w.port("image", 3)], [logits])
    return model


@pytest.fixture(scope="session")
def tiny_tables() -> Tables:
    """The tables of the tiny bundle."""
    return Tables.from_bytes((GOLDEN / "tiny" / "tables" / "entropy.npz").read_bytes())


@pytest.fixture(scope="session")
def tiny_codec() -> Iterator[Codec]:
    """The golden files' bundle, opened: hand-made networks that run in no time, the same for ever."""
    with Codec.open(GOLDEN / "tiny", threads=1) as opened:
        yield opened


@pytest.fixture
def tiny_in_tiles() -> Bundle:
    """The tiny bundle, whose free graphs but h_a may run in parts."""
    bundle, pixels = Bundle.open(GOLDEN / "tiny"), {"g_a": 1, "g_s": 16, "post_low": 1, "preview": 16}
    graphs = {
        role: replace(bundle.graphs[role], tiling=Tiling(size, multiple=16 // size, reach=0))
        for role, size in pixels.items()
    }
    return replace(bundle, graphs={**bundle.graphs, **graphs})


@pytest.fixture(scope="session")
def golden(make_golden: ModuleType) -> dict[str, bytes]:
    """The golden streams that must decode, by name."""
    streams = {path.stem: path.read_bytes() for path in (make_golden.HERE / "valid").glob("*.cut")}
    return streams


@pytest.fixture(scope="session")
def crop(photographs: dict[str, Image]) -> Image:
    """A detailed part of a photograph, uint8 (80, 96, 3)."""
    return np.ascontiguousarray(photographs["coffee"][120:200, 220:316])


@pytest.fixture(scope="session")
def crop_stream(codec: Codec, crop: Image) -> bytes:
    """The crop, encoded with the shipped bundle."""
    return codec.encode(crop).stream


@pytest.fixture
def picture(tmp_path: Path, photographs: dict[str, Image]) -> Path:
    """A file of a photograph, 451x300."""
    write_image(tmp_path / "chelsea.png", photographs["chelsea"])
    return tmp_path / "chelsea.png"


@pytest.fixture
def small(tmp_path: Path, photographs: dict[str, Image]) -> Path:
    """A file of a piece of it, 150x100."""
    write_image(tmp_path / "small.png", photographs["chelsea"][100:200, 150:300])
    return tmp_path / "small.png"


@pytest.fixture
def coded(tmp_path: Path, stream: bytes) -> Path:
    """A file of the photograph's stream."""
    (tmp_path / "chelsea.cut").write_bytes(stream)
    return tmp_path / "chelsea.cut"


@pytest.fixture
def world(make_golden: ModuleType) -> Iterator[World]:
    """The tiny bundle on a made-up clock."""
    stream = (make_golden.HERE / "valid" / "frames.cut").read_bytes()
    with clockwork(make_golden.HERE / "tiny", stream, dict(COSTS)) as made:
        yield made
