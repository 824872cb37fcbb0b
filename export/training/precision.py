"""The arithmetic that networks are trained in."""

from __future__ import annotations

import torch
from torch import Tensor


def autocast(x: Tensor) -> torch.autocast:
    """Arithmetic of torch's autocast type for the device of *x*: bfloat16, or what `--precision` has set."""
    dtype = torch.get_autocast_dtype(x.device.type)
    return torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32)
