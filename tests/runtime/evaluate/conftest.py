from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

Image = NDArray[np.uint8]


@pytest.fixture(scope="session")
def chelsea() -> Image:
    """A photograph with odd sides: uint8 (300, 451, 3)."""
    data = pytest.importorskip("skimage.data")
    return data.chelsea()


@pytest.fixture(scope="session")
def astronaut() -> Image:
    """A photograph of 512x512: uint8 (512, 512, 3)."""
    data = pytest.importorskip("skimage.data")
    return data.astronaut()
