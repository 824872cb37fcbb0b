"""Exact graphs in numpy's 64-bit integers: the reference of every other back end, and the last to fall back on.

Slow (a hundredth of ONNX Runtime's speed), but there is nothing in it that could differ between machines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.engine import Tensor, check_ports
from engines.errors import BundleError, EngineError
from engines.exact_graph import (
    Clip,
    Convolution,
    ExactGraph,
    Integers,
    Rearrangement,
    Shift,
    Step,
    is_whole,
    read_exact_graph,
)
from engines.manifest import GraphSpec

LARGEST_INPUT = 1 << 16
_LARGEST_SUM = 1 << 61


class NumpyExact:
    """An engine of one exact graph; see `engines.engine.Engine`."""

    backend = "numpy-int64"

    def __init__(self, model: bytes, spec: GraphSpec) -> None:
        """Open *model*.

        Raises:
            EngineError: it is not an exact graph, could leave 64 bits, or its tensors are not those of *spec*.
        """
        try:
            self._graph = read_exact_graph(model)
            _check_sums(self._graph)
        except BundleError as fault:
            raise EngineError(f"graph {spec.role!r} cannot be opened by numpy: {fault}") from fault
        check_ports(spec, [name for name, _ in self._graph.inputs], [name for name, _ in self._graph.outputs])
        self._spec = spec

    def run(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Run the graph on integers of magnitude at most 2^16; see `Engine.run`."""
        ports = self._graph.inputs
        if len(inputs) != len(ports):
            raise EngineError(f"graph {self._spec.role!r} takes {len(ports)} inputs, not {len(inputs)}")
        values: dict[str, Integers] = {}
        for (name, channels), value in zip(ports, inputs, strict=True):
            if value.dtype != np.float32 or value.ndim != 4 or value.shape[1] != channels:
                raise EngineError(
                    f"graph {self._spec.role!r}: {name} must be float32 (B, {channels}, H, W), "
                    f"not {value.dtype} {value.shape}"
                )
            if not is_whole(value, LARGEST_INPUT):
                raise EngineError(f"graph {self._spec.role!r}: {name} must be integers of magnitude at most 2^16")
            values[name] = value.astype(np.int64)
        for step in self._graph.steps:
            values[step.result] = _run_step(step, values[step.source])
        return [values[result].astype(np.float32) for _, result in self._graph.outputs]

    def close(self) -> None:
        """Free the constants."""
        del self._graph


def _check_sums(graph: ExactGraph) -> None:
    """Refuse a graph of which a sum could leave 64 bits, whatever its inputs of magnitude up to LARGEST_INPUT."""
    largest = {name: float(LARGEST_INPUT) for name, _ in graph.inputs}
    for step in graph.steps:
        value = largest[step.source]
        if isinstance(step, Convolution):
            sums = np.abs(step.weight).sum(axis=(1, 2, 3)).astype(np.float64)
            value = float((sums * value + np.abs(step.bias)).max())
        elif isinstance(step, Shift):
            value = min(value * 2.0 ** float(-step.right.min()) + 1, float(_LARGEST_SUM))
        elif isinstance(step, Clip):
            value = float(max(abs(step.low), abs(step.high)))
        if value > _LARGEST_SUM:
            raise BundleError(f"{step.result!r} could reach {value:g}")
        largest[step.result] = value


def _run_step(step: Step, x: Integers) -> Integers:
    """Return int64 (B, C, H, W)."""
    if isinstance(step, Convolution):
        return _convolve(step, x)
    if isinstance(step, Shift):
        left, right = np.maximum(-step.right, 0)[:, None, None], np.maximum(step.right, 0)[:, None, None]
        # What would leave 64 bits stays at their end: only a clip can follow, whose limits are far below.
        limit: Integers = np.right_shift(np.int64(_LARGEST_SUM), left)
        shifted: Integers = np.left_shift(x.clip(-limit, limit), left)
        shifted >>= right  # rounds towards minus infinity
        return shifted
    if isinstance(step, Clip):
        return x.clip(step.low, step.high)
    assert isinstance(step, Rearrangement)
    batch, channels, height, width = x.shape
    size = step.size
    blocks = x.reshape(batch, channels // size**2, size, size, height, width)
    return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(batch, -1, height * size, width * size)


def _convolve(step: Convolution, x: Integers) -> Integers:
    """Sum the shifted images of every group, one place of the kernel after another."""
    batch, _, height, width = x.shape
    outputs, per_group, kernel = step.weight.shape[:3]
    margin = kernel // 2
    padded = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    total = np.zeros((batch, step.groups, outputs // step.groups, height * width), np.int64)
    for row in range(kernel):
        for column in range(kernel):
            image = padded[:, :, row : row + height, column : column + width]
            grouped = image.reshape(batch, step.groups, per_group, height * width)
            weight = step.weight[:, :, row, column].reshape(step.groups, -1, per_group)
            total += weight * grouped if per_group == 1 else weight @ grouped
    result: Integers = total.reshape(batch, outputs, height, width) + step.bias[:, None, None]
    return result
