"""What is exported has to be finite: no integer stands for NaN or infinity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.errors import UsageError


def require_finite(what: str, values: Mapping[str, Tensor | NDArray[Any]]) -> None:
    """Refuse NaN and infinity.

    Args:
        what: the values are of, for the error.
        values: by name.

    Raises:
        UsageError: there are some; names are listed.
    """
    broken = [name for name, one in values.items() if not bool(torch.as_tensor(one).isfinite().all())]
    if broken:
        raise UsageError(f"{what}: not all values are finite in {listed(broken)}")


def listed(names: Iterable[str]) -> str:
    """Return *names* for an error: the first few of many."""
    every = list(names)
    shown = ", ".join(every[:8])
    return f"{shown} and {len(every) - 8} more" if len(every) > 8 else shown or "nothing"
