"""The integer tables that every probability, order and conditional mean comes from.

A *model* is a distribution of one integer symbol: model m < `y_levels` is that of sigma level m, the models
after those are z's channels. A symbol of model m is sent as `trits[m]` balanced ternary digits, most significant first.
A *node* stands for (model, digits so far); inner nodes have three children with consecutive numbers, the nodes of
complete symbols are leaves. Inner nodes come first, so their numbers are also the rows of the coder's tables.

Nothing here is computed on a device: the arrays are made at export, travel in the bundle and are part of its exact_id.
FORMAT.md, "Tables".
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.entropy.context import Context
from runtime.errors import BundleError

TOTAL_BITS = 24  # the frequencies of a row sum to 2^24
MEAN_UNIT = 64  # means, deviations and mu are in units of 1/64 symbol
MOST_TRITS = 6  # symbols up to 364: their means fit int16
MOST_LEVELS = 256
MOST_MODELS = MOST_LEVELS + (1 << 12)
_KINDS: Mapping[str, type[np.integer]] = {
    "trits": np.uint8,
    "root": np.int32,
    "first_child": np.int32,
    "frequencies": np.uint32,
    "priority": np.int16,
    "mean": np.int16,
    "deviation": np.uint16,
    "sigma_thresholds": np.int32,
}


@dataclass(frozen=True)
class Tables:
    """See the module text. K inner nodes, N nodes in all, M models.

    Attributes:
        trits: uint8 (M,); digits of each model's symbols, 0 where the symbol is always 0 and never sent; at most 6.
        root: int32 (M,); the node of a model before any digit.
        first_child: int32 (K,); child t of a node is `first_child + t`.
        frequencies: uint32 (K, 3); each at least 1, rows sum to 2^24.
        priority: int16 (K,); expected fall of squared error per bit, log2 in units of 1/64 octave.
        mean: int16 (N,); conditional mean of the symbol, in 1/64; at leaves it rounds to the symbol.
        deviation: uint16 (N,); standard deviation left, in 1/64; 0 at leaves.
        sigma_thresholds: int32 (y_levels - 1,), rising; the level of a sigma code is how many thresholds it reaches.
        context: further rows, for families whose trits have probabilities beside those of their nodes.
    """

    trits: NDArray[np.uint8]
    root: NDArray[np.int32]
    first_child: NDArray[np.int32]
    frequencies: NDArray[np.uint32]
    priority: NDArray[np.int16]
    mean: NDArray[np.int16]
    deviation: NDArray[np.uint16]
    sigma_thresholds: NDArray[np.int32]
    context: Context | None = None

    def __post_init__(self) -> None:
        """Check every claim that the walk relies on.

        Raises:
            BundleError: a table contradicts itself.
        """
        for name in _KINDS:
            dimensions = 2 if name == "frequencies" else 1
            _require(getattr(self, name).ndim == dimensions, f"{name} must have {dimensions} dimensions")
        inner, nodes = len(self.first_child), len(self.mean)
        _require(self.frequencies.shape == (inner, 3), "frequencies must have one row of three per inner node")
        _require(self.priority.shape == (inner,), "priority must have one entry per inner node")
        _require(self.deviation.shape == (nodes,), "deviation must have one entry per node")
        _require(self.root.shape == self.trits.shape, "root and trits must have one entry per model")
        _require(len(self.trits) <= MOST_MODELS, f"more than {MOST_MODELS} models")
        _require(bool((self.frequencies >= 1).all()), "a frequency is zero")
        _require(bool((self.frequencies.sum(axis=1, dtype=np.uint64) == 1 << TOTAL_BITS).all()), "a row's sum is wrong")
        _require(bool((self.first_child > np.arange(inner)).all()), "a child precedes its parent")
        _require(bool((self.first_child <= nodes - 3).all()), "a child is out of range")
        _require(bool(((self.root >= 0) & (self.root < nodes)).all()), "a root is out of range")
        rising = self.sigma_thresholds[1:] > self.sigma_thresholds[:-1]  # their differences might not fit int32
        _require(bool(rising.all()), "sigma thresholds do not rise")
        _require(self.y_levels <= len(self.trits), "fewer models than sigma levels")
        _require(self.y_levels <= MOST_LEVELS, f"more than {MOST_LEVELS} sigma levels")
        _require(int(self.trits.max(initial=0)) <= MOST_TRITS, f"a model has more than {MOST_TRITS} trits")
        self._check_trees(inner)
        if self.context is not None:
            _require(len(self.context.features) == nodes, "context: features must have one row per node")
            _require(len(self.context.log_odds) == inner, "context: log_odds must have one row per inner node")

    def _check_trees(self, inner: int) -> None:
        """Walk every model's tree: all paths must end at a leaf after exactly the model's trits, with its symbol."""
        node, left, symbol = self.root, self.trits.astype(np.int32), np.zeros(len(self.root), np.int32)
        for _ in range(MOST_TRITS + 1):
            leaf = left == 0
            _require(bool(((node >= inner) == leaf).all()), "a model's tree has the wrong depth")
            ends = node[leaf]
            _require(bool((_symbol_of_mean(self.mean[ends]) == symbol[leaf]).all()), "a leaf's mean is not its symbol")
            _require(not self.deviation[ends].any(), "a leaf's deviation is not 0")
            node = (self.first_child[node[~leaf], None] + np.arange(3)).reshape(-1)
            symbol = (3 * symbol[~leaf, None] + np.arange(-1, 2)).reshape(-1)
            left = np.repeat(left[~leaf] - 1, 3)

    @property
    def y_levels(self) -> int:
        """Number of sigma levels."""
        return len(self.sigma_thresholds) + 1

    @property
    def row_frequencies(self) -> NDArray[np.uint32]:
        """uint32 (K + R, 3): the frequencies of all rows, those of the inner nodes and then those of the context."""
        if self.context is None:
            return self.frequencies
        return np.concatenate([self.frequencies, self.context.grid])

    @property
    def largest(self) -> NDArray[np.int32]:
        """int32 (M,): largest magnitude of each model's symbols, (3^trits - 1) / 2."""
        result: NDArray[np.int32] = (3 ** self.trits.astype(np.int32) - 1) // 2
        return result

    def symbols_at(self, nodes: NDArray[np.int32]) -> NDArray[np.int32]:
        """int32, of the shape of *nodes*: the symbols of elements whose trits are all known."""
        return _symbol_of_mean(self.mean[nodes])

    def trits_left(self) -> NDArray[np.uint8]:
        """uint8 (N,): how many trits follow at each node; 0 at leaves."""
        left = np.zeros(len(self.mean), np.uint8)
        for _ in range(MOST_TRITS):  # each time one level of the trees more is right, from the leaves up
            left[: len(self.first_child)] = left[self.first_child] + 1
        return left

    def intervals(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Two float32 (N,): between which values rounds to a symbol that is possible at a node, as middle and reach.

        The reach is 0 at leaves: a complete symbol stands for itself.
        """
        middle = np.zeros(len(self.mean), np.float32)
        inner = len(self.first_child)
        middle[inner:] = _symbol_of_mean(self.mean[inner:])
        for _ in range(MOST_TRITS):  # as in trits_left
            middle[:inner] = middle[self.first_child + 1]
        left = self.trits_left()
        return middle, np.where(left > 0, np.float32(0.5) * np.float32(3) ** left, np.float32(0)).astype(np.float32)

    def level_of_code(self, codes: int) -> NDArray[np.uint8]:
        """uint8 (codes,): the sigma level of every sigma code from 0 to *codes* - 1."""
        return np.searchsorted(self.sigma_thresholds, np.arange(codes), side="right").astype(np.uint8)

    def to_bytes(self) -> bytes:
        """Return the table file: an uncompressed .npz of little-endian arrays; the same tables give the same bytes."""
        buffer = io.BytesIO()
        arrays: dict[str, NDArray[np.generic]] = {name: np.asarray(getattr(self, name)) for name in _KINDS}
        if self.context is not None:
            arrays |= self.context.arrays()
        np.savez(buffer, allow_pickle=False, **{k: v.astype(v.dtype.newbyteorder("<")) for k, v in arrays.items()})
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Tables:
        """Read a table file of one's own; of others', `from_arrays` takes what was read with limits.

        Raises:
            BundleError: an array is missing, of the wrong type, or contradicts another.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except Exception as fault:  # what numpy, zipfile and zlib raise on garbage has no common base
            raise BundleError(f"tables: not a readable table file: {fault!r}") from fault
        return cls.from_arrays(arrays)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Tables:
        """Take the arrays of a table file.

        Raises:
            BundleError: an array is missing, of the wrong type, or contradicts another.
        """
        for name, kind in _KINDS.items():
            _require(name in arrays, f"not a readable table file: {name} is missing")
            _require(arrays[name].dtype == kind, f"{name} must be {np.dtype(kind)}, not {arrays[name].dtype}")
        own: dict[str, Any] = {name: np.asarray(arrays[name], order="C") for name in _KINDS}
        return cls(**own, context=Context.from_arrays(arrays))


def _symbol_of_mean(mean: NDArray[np.int16]) -> NDArray[np.int32]:
    """int32: the integers nearest to *mean*, in 1/64; halves go up."""
    symbols: NDArray[np.int32] = np.right_shift(mean.astype(np.int32) + MEAN_UNIT // 2, 6)
    return symbols


def _require(condition: bool, fault: str) -> None:
    if not condition:
        raise BundleError(f"tables: {fault}")
