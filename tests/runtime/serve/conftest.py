"""A tiny server's settings, the stream that its cameras send, and a camera that has said hello."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from serving import Camera, Running, serving

from runtime import Codec
from runtime.protocol import Welcome
from runtime.serve.settings import DecodeSettings, LimitSettings, ServerSettings, StoreSettings, TokenSettings

TINY = str(Path(__file__).parents[2] / "golden" / "tiny")
GATE, YARD, LOOK = "gate-0123456789abcdef", "yard-0123456789abcdef", "look-0123456789abcdef"


@pytest.fixture(scope="session")
def settings_in() -> Callable[[Path], ServerSettings]:
    """Return settings of a server with its store in a folder: two cameras, a viewer, the tiny bundle."""
    return lambda folder: ServerSettings(
        tokens=TokenSettings(cameras={"gate": GATE, "yard": YARD}, viewers={"eve": LOOK}),
        decode=DecodeSettings(bundle=TINY, threads=1, warm=("96x80",)),
        limits=LimitSettings(frames=4, frame_bytes=1 << 20),
        store=StoreSettings(folder=folder / "store"),
    )


@pytest.fixture
def settings(tmp_path: Path, settings_in: Callable[[Path], ServerSettings]) -> ServerSettings:
    """Settings of the test's own."""
    return settings_in(tmp_path)


@pytest.fixture
def running(settings: ServerSettings) -> Iterator[Running]:
    """A server by `settings`."""
    with serving(settings) as one:
        yield one


@pytest.fixture(scope="session")
def tiny_stream(tiny_codec: Codec, crop: NDArray[np.uint8]) -> bytes:
    """A photograph's crop, 96x80, coded with the tiny bundle."""
    return tiny_codec.encode(crop).stream


@pytest.fixture
def camera(running: Running, tiny_codec: Codec) -> Iterator[Callable[..., Camera]]:
    """Connect a camera, by default "gate"; welcomed already."""
    with ExitStack() as stack:

        def new(name: str = "gate", token: str = GATE, **options: Any) -> Camera:
            one = stack.enter_context(Camera(running.port, name, token, tiny_codec.bundle.exact_id.hex(), **options))
            assert isinstance(one.greet(), Welcome)
            return one

        yield new
