"""What the codec needs of an engine: a graph opened on a device, which can be run and closed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineError
from engines.manifest import GraphSpec

Tensor = NDArray[np.float32]
Progress = Callable[[str, int, int], None]  # of building a plan: phase, steps done, steps in all


class Engine(Protocol):
    """One graph on one device. Opening is explicit, a run is synchronous, closing frees."""

    backend: str  # e.g. "cpu"; named in reports

    def run(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Return the outputs, in the graph's order, for *inputs*, float32 (B, C, H, W), in the graph's order.

        Raises:
            EngineError: the inputs do not fit the graph, or the device failed.
            NotPrepared: the engine would first have to be built for inputs of this size.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; it cannot be run afterwards."""
        ...


@runtime_checkable
class StoppableEngine(Engine, Protocol):
    """An engine that can end a run that takes too long."""

    def run_within(self, seconds: float, *inputs: Tensor) -> Sequence[Tensor]:
        """Run the graph as `run` does, for *seconds* at most.

        Raises:
            OutOfTime: it took longer. The run ends a little later, of its own; the engine can be run meanwhile.
        """
        ...


def check_inputs(spec: GraphSpec, inputs: Sequence[Tensor]) -> None:
    """Refuse inputs that are not as many as the graph has, or not float32 (B, C, H, W).

    Raises:
        EngineError: as said; the message names the graph.
    """
    if len(inputs) != len(spec.inputs):
        raise EngineError(f"graph {spec.role!r} takes {len(spec.inputs)} inputs, not {len(inputs)}")
    for name, value in zip(spec.inputs, inputs, strict=True):
        if value.dtype != np.float32 or value.ndim != 4:
            found = f"{value.dtype} {value.shape}"
            raise EngineError(f"graph {spec.role!r}: {name} must be float32 (B, C, H, W), not {found}")


def check_ports(spec: GraphSpec, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Refuse a graph whose tensors are not those of the manifest.

    Raises:
        EngineError: as said.
    """
    found = tuple(inputs), tuple(outputs)
    if found != (spec.inputs, spec.outputs):
        raise EngineError(f"graph {spec.role!r} has inputs and outputs {found}, not {(spec.inputs, spec.outputs)}")
