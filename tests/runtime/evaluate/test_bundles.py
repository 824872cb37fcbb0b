from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.codec import Codec
from runtime.evaluate.bundles import BundleCodec

Image = NDArray[np.uint8]


def test_slow_machines_give_up_no_picture(chelsea: Image, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if an hour passes at every look at the clock: limits are for streams of others."""
    hours = count(0, 3600)
    opened: Callable[..., Codec] = Codec.open

    def open_with_slow_clock(*words: Any, **more: Any) -> Codec:
        return opened(*words, **more, clock=lambda: float(next(hours)))

    monkeypatch.setattr(Codec, "open", open_with_slow_clock)
    codec = BundleCodec.open(tiny, "cpu", 1)
    decoded = codec.decode(codec.encode(np.ascontiguousarray(chelsea[:48, :40])))
    codec.close()
    assert decoded is not None and decoded.shape == (48, 40, 3)
