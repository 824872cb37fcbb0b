"""A tiny bundle of family ctc with any segments, made by the generator of the golden files, and a picture for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


def write_tiny_ctc(folder: Path, segments: list[int]) -> Path:
    """Write the bundle to *folder* and return that; skips the test where onnx is not installed."""
    pytest.importorskip("onnx", reason="onnx is not installed (extra: export)")
    import tiny_families

    tiny_families.write_tiny_ctc(folder, segments)
    return folder


def structured_image() -> NDArray[np.uint8]:
    """Return a picture with some structure, 120x100, padded to 128x128."""
    row, column = np.mgrid[0:100, 0:120]
    waves = [
        128 + 90 * np.sin(row / (7 + c)) * np.cos(column / (11 - 2 * c)) + (row * column * 7 % 31) for c in range(3)
    ]
    return np.clip(np.stack(waves, axis=-1), 0, 255).astype(np.uint8)
