"""Proves of an exact graph, from its file alone, that no engine can round.

Per output channel of every convolution, `sum|w| * max|x| + |b|` bounds every partial sum in any order. Below 2^24
float32 holds all of them. Dense 3x3 layers, which some engines compute by way of transforms, must stay below 2^20, so
that the transforms' errors stay below one half and are rounded away. max|x| per channel follows from interval
arithmetic through the graph, starting at the largest magnitudes that inputs can have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.errors import BundleError
from engines.exact_graph import Clip, Convolution, ExactGraph, Rearrangement, Shift, Step

SUM_LIMIT = 1 << 24
DENSE_SUM_LIMIT = 1 << 20

Bounds = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """float64 (channels,) each: integers, exact as long as they are below 2^53; nothing larger passes a proof."""

    low: Bounds
    high: Bounds

    @property
    def magnitude(self) -> Bounds:
        """Largest magnitude per channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


def prove(graph: ExactGraph, input_limits: Mapping[str, NDArray[np.generic]]) -> dict[str, float]:
    """Return log2 of the largest sum that any channel of each convolution can reach.

    Args:
        input_limits: per input, the largest magnitude of every channel's integers, (channels,).

    Raises:
        BundleError: a bound reaches its limit, or an input's limits are missing; the message names layer and channel.
    """
    proof: dict[str, float] = {}
    intervals = _input_intervals(graph, input_limits)
    for step in graph.steps:
        if isinstance(step, Convolution):
            reach = sum_bounds(step, intervals[step.source])
            limit = DENSE_SUM_LIMIT if step.dense else SUM_LIMIT
            worst = int(reach.argmax())
            if not reach[worst] < limit:
                raise BundleError(
                    f"layer {step.layer!r}, channel {worst}: sums can reach {reach[worst]:.0f}, "
                    f"which is not below 2^{math.log2(limit):.0f}"
                )
            proof[step.layer] = math.log2(max(1.0, reach[worst]))
        intervals[step.result] = _through(step, intervals[step.source])
    for name, result in graph.outputs:
        worst = int(intervals[result].magnitude.argmax())
        if not intervals[result].magnitude[worst] < SUM_LIMIT:
            raise BundleError(f"output {name!r}, channel {worst}: not below 2^24")
    return proof


def sum_bounds(step: Convolution, source: Interval) -> Bounds:
    """Return float64 (out,): the largest magnitude of any partial sum of each output channel."""
    taps = np.abs(step.weight).sum(axis=(2, 3)).astype(np.float64)
    bounds: Bounds = (taps * _per_output(step, source.magnitude)).sum(axis=1) + np.abs(step.bias)
    return bounds


def _input_intervals(graph: ExactGraph, limits: Mapping[str, NDArray[np.generic]]) -> dict[str, Interval]:
    intervals = {}
    for name, channels in graph.inputs:
        if name not in limits or limits[name].shape != (channels,):
            raise BundleError(f"no limits of the {channels} channels of input {name!r} are known")
        largest = limits[name].astype(np.float64)
        intervals[name] = Interval(-largest, largest)
    return intervals


def _per_output(step: Convolution, values: Bounds) -> Bounds:
    """Return float64 (out, in / groups): for every output channel the *values* of the input channels that it sums."""
    grouped = values.reshape(step.groups, -1)
    return np.repeat(grouped, len(step.weight) // step.groups, axis=0)


def _through(step: Step, source: Interval) -> Interval:
    """Return what *step* makes of an interval."""
    if isinstance(step, Convolution):
        return _through_convolution(step, source)
    if isinstance(step, Shift):
        scale = 2.0 ** -step.right.astype(np.float64)
        return Interval(np.floor(source.low * scale), np.floor(source.high * scale))
    if isinstance(step, Clip):
        return Interval(source.low.clip(step.low, step.high), source.high.clip(step.low, step.high))
    assert isinstance(step, Rearrangement)
    joined = step.size**2
    return Interval(source.low.reshape(-1, joined).min(axis=1), source.high.reshape(-1, joined).max(axis=1))


def _through_convolution(step: Convolution, source: Interval) -> Interval:
    low, high = source.low, source.high
    if step.weight.shape[2] > 1:  # padding brings zeros
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    low, high = _per_output(step, low), _per_output(step, high)
    rising = np.maximum(step.weight, 0).sum(axis=(2, 3)).astype(np.float64)
    falling = np.minimum(step.weight, 0).sum(axis=(2, 3)).astype(np.float64)
    bias = step.bias.astype(np.float64)
    return Interval(
        (rising * low + falling * high).sum(axis=1) + bias,
        (rising * high + falling * low).sum(axis=1) + bias,
    )
