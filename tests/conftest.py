"""What many tests share: photographs, the shipped codec and a stream of it, and a cache folder of their own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.cli.samples import photographs as photographs_of_skimage
from runtime.codec import Codec


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep measured costs out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTOFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def photographs() -> dict[str, NDArray[np.uint8]]:
    """Photographs by name, uint8 (H, W, 3): astronaut, chelsea, coffee, motorcycle, rocket."""
    return photographs_of_skimage()


@pytest.fixture(scope="session")
def codec(own_cache: None) -> Iterator[Codec]:
    """The shipped bundle, opened: no test may depend on its exact values."""
    with Codec.open("dpict-edge", threads=2) as opened:
        yield opened


@pytest.fixture(scope="session")
def stream(codec: Codec, photographs: dict[str, NDArray[np.uint8]]) -> bytes:
    """The stream of `photographs["chelsea"]`, 451x300; its body has several frames."""
    return codec.encode(photographs["chelsea"]).stream
