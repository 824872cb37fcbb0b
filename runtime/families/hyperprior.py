"""What families with a hyperprior share: strides of the latents, checked settings, sigma levels from an exact graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def sigma_levels(codes: Tensor, shape: tuple[int, ...], level_of_code: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the sigma level of every element, *shape*, from what an exact graph gives as sigma codes.

    Raises:
        BundleError: the graph gives another shape, or codes that are none.
    """
    if codes.shape != shape:
        raise BundleError(f"h_s gives sigma codes {codes.shape}, not {shape}")
    if not 0 <= codes.min() <= codes.max() < CODES:
        raise BundleError(f"h_s gives a sigma code outside 0..{CODES - 1}")
    return level_of_code[codes.astype(np.int32)]
