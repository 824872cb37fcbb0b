"""What stages draw, beside patches: from torch's generator, which a run seeds for each process and each start anew."""

from __future__ import annotations

import torch


def uniform(low: float, high: float) -> float:
    """Return a number from *low* to *high*."""
    return low + (high - low) * float(torch.rand(()))
