"""What families with a hyperprior share: strides of the latents, checked settings, sigma levels from an exact graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.entropy.plan import portions
from runtime.entropy.tables import MEAN_UNIT
from runtime.errors import BundleError
from runtime.families.base import Tensor

CODES = 1 << 15  # sigma codes are 0..32767
Y_STRIDE, Z_STRIDE = 16, 64
_MOST_CHANNELS = 1 << 12


def count_setting(family: str, settings: Mapping[str, Any], name: str, most: int = _MOST_CHANNELS) -> int:
    """Return a setting that is a number of channels or groups; it later claims memory or time.

    Raises:
        BundleError: it is missing, no integer, or not 1 to *most*.
    """
    count = settings.get(name)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= most:
        raise BundleError(f"settings of family {family}: {name} must be 1 to {most}, not {count!r}")
    return count


def sigma_levels(codes: NDArray[Any], shape: tuple[int, ...], level_of_code: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the sigma level of every element, *shape*, from what an exact graph gives as sigma codes.

    Raises:
        BundleError: the graph gives another shape, or codes that are none.
    """
    if codes.shape != shape:
        raise BundleError(f"h_s gives sigma codes {codes.shape}, not {shape}")
    if not 0 <= codes.min() <= codes.max() < CODES:
        raise BundleError(f"h_s gives a sigma code outside 0..{CODES - 1}")
    levels = np.empty(codes.size, np.uint8)
    flat = codes.reshape(-1)
    for part in portions(codes.size):
        levels[part] = level_of_code.take(flat[part].astype(np.intp))
    return levels.reshape(shape)


def compact(mu: NDArray[Any]) -> NDArray[np.integer]:
    """Return *mu*, whole numbers of any shape, as (n,) integers of 16 bits, or of 32 where these are too few."""
    fits = mu.min(initial=0) >= -(1 << 15) and mu.max(initial=0) < 1 << 15
    return mu.reshape(-1).astype(np.int16 if fits else np.int32, copy=False)


class SymbolsAround:
    """How far *latent*, any shape of n elements, is from *mu*, (n,) in 1/64, rounded to whole numbers: int32 (n,).

    Made where it is looked at, as a field keeps symbols in an array of its own.
    """

    def __init__(self, mu: NDArray[np.integer], latent: Tensor) -> None:
        self._mu, self._latent = mu, latent.reshape(-1)

    def __getitem__(self, part: slice) -> NDArray[np.int32]:
        mu = self._mu[part].astype(np.int32) * np.float32(1 / MEAN_UNIT)
        return np.rint(self._latent[part] - mu).astype(np.int32)


def values(table: NDArray[np.integer], nodes: NDArray[np.int32], mu: NDArray[np.integer] | int = 0) -> Tensor:
    """float32 (n,): what *table*, in 1/64, says of every node, plus *mu*, in 1/64, one for all or one for each."""
    result = np.empty(len(nodes), np.float32)
    for part in portions(len(nodes)):
        result[part] = table.take(nodes[part]) + (mu if isinstance(mu, int) else mu[part].astype(np.int32))
    result *= np.float32(1 / MEAN_UNIT)
    return result


def total(table: NDArray[np.floating], nodes: NDArray[np.int32]) -> float:
    """Return the sum of what *table* says of every node."""
    return sum(float(table.take(nodes[part]).sum(dtype=np.float64)) for part in portions(len(nodes)))
