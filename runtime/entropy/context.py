"""Integer tables for context: how a network's opinion of an element changes the frequencies of its next trit.

The family of distributions is an exponential tilt. Of a node with children t = 0, 1, 2, an element's trit has

    p[t]  proportional to  f[t] * exp(shift * position[t] + spread * energy[t])

with frequencies f of the tables, the position and the energy of the children (below), and two numbers from the
network: how far the element's mean is off, in standard deviations, and how far the logarithm of its scale is. For a
Gaussian that is its derivative. Both log-odds against the middle trit, kept as integers, select a row of frequencies.

Like all tables these were made at export and belong to the bundle's exact_id. FORMAT.md, "Context tables".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BundleError

CHANGE_UNIT = 64  # what a network says is in units of 1/64
CHANGE_LIMIT = 255  # and of at most this magnitude
FEATURE_BITS = 4  # features are in units of 1/16
LOG_ODDS_UNIT = 64
GRID_BITS = 3  # log-odds are rounded to units of 1/8 to select a row
MOST_FEATURES = 8
MOST_STEPS = 127  # of the grid, from its middle outwards


@dataclass(frozen=True)
class Context:
    """See the module text. K inner nodes, N nodes in all, F features, a grid from -G to G.

    Attributes:
        features: int8 (N, F); what a network sees of a node, in units of 1/16. The first two are position, the
            conditional mean in standard deviations of the model, and energy, the conditional mean square in its
            variances less 1.
        log_odds: int16 (K, 2); ln f[0]/f[1] and ln f[2]/f[1] of an inner node, in units of 1/64. They may
            differ from the odds of the node's own row, which has to serve without any context.
        grid: uint32 ((2G + 1)^2, 3); frequencies of at least 1 that sum to 2^24, by both log-odds in units of 1/8.
    """

    features: NDArray[np.int8]
    log_odds: NDArray[np.int16]
    grid: NDArray[np.uint32]

    def __post_init__(self) -> None:
        """Check what can be checked without the tables that these belong to.

        Raises:
            BundleError: an array has another shape, or contradicts itself.
        """
        _require(self.features.ndim == 2 and 2 <= self.features.shape[1] <= MOST_FEATURES, "features have no F columns")
        _require(self.log_odds.ndim == 2 and self.log_odds.shape[1] == 2, "log_odds must have two columns")
        _require(self.grid.ndim == 2 and self.grid.shape[1] == 3, "grid must have three columns")
        side = math.isqrt(len(self.grid))
        _require(side**2 == len(self.grid) and side % 2 == 1, "grid must have a row for each pair of log-odds")
        _require(side <= 2 * MOST_STEPS + 1, f"grid has more than {2 * MOST_STEPS + 1} steps a side")
        _require(bool((self.grid >= 1).all()), "a frequency of the grid is zero")
        _require(bool((self.grid.sum(axis=1, dtype=np.uint64) == 1 << 24).all()), "a sum of the grid is wrong")

    @cached_property
    def steps(self) -> int:
        """G: steps of the grid from its middle outwards."""
        return math.isqrt(len(self.grid)) // 2

    def slopes(self, first_child: NDArray[np.int32]) -> NDArray[np.int16]:
        """int16 (K, 4): position and energy of the children 0 and 2, less those of child 1."""
        children = self.features[first_child[:, None] + np.arange(3), :2].astype(np.int16)
        return np.concatenate([children[:, 0] - children[:, 1], children[:, 2] - children[:, 1]], axis=1)

    def rows(
        self, slopes: NDArray[np.int16], nodes: NDArray[np.int32], changes: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """Return the row of the grid for each of *nodes*.

        Args:
            slopes: what `slopes` returns.
            nodes: int32 (n,); inner nodes.
            changes: int32 (2, n); shift and spread of each, in 1/64, of magnitude up to CHANGE_LIMIT.
        """
        shift, spread = changes
        tilt = slopes[nodes].astype(np.int32)
        own = self.log_odds[nodes].astype(np.int32)
        steps, half = self.steps, 1 << (GRID_BITS - 1)
        row = np.zeros(len(nodes), np.int32)
        for end in range(2):
            change = (shift * tilt[:, 2 * end] + spread * tilt[:, 2 * end + 1]) >> FEATURE_BITS
            place = (own[:, end] + change + half) >> GRID_BITS
            row = row * (2 * steps + 1) + np.clip(place, -steps, steps) + steps
        return row

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays by the names that they have in a table file."""
        return {f"context_{one.name}": getattr(self, one.name) for one in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Context | None:
        """Take the context's arrays of a table file; None if there are none.

        Raises:
            BundleError: an array is missing, of the wrong type, or contradicts itself.
        """
        kinds = {"features": np.int8, "log_odds": np.int16, "grid": np.uint32}
        if not any(f"context_{name}" in arrays for name in kinds):
            return None
        for name, kind in kinds.items():
            array = arrays.get(f"context_{name}")
            _require(array is not None, f"{name} is missing")
            assert array is not None
            _require(array.dtype == kind, f"{name} must be {np.dtype(kind)}, not {array.dtype}")
        return cls(**{name: np.asarray(arrays[f"context_{name}"], order="C") for name in kinds})


def _require(condition: bool, fault: str) -> None:
    if not condition:
        raise BundleError(f"tables: context: {fault}")
