"""What the codec needs of an engine: a graph opened on a device, which can be run and closed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.float32]


class Engine(Protocol):
    """One graph on one device. Opening is explicit, a run is synchronous, closing frees."""

    backend: str  # e.g. "onnxruntime-cpu"; named in reports and in the keys of measured costs

    def run(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Return the outputs, in the graph's order, for *inputs*, float32 (B, C, H, W), in the graph's order.

        Raises:
            EngineError: the inputs do not fit the graph, or the device failed.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; it cannot be run afterwards."""
        ...
