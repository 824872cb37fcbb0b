"""Partial latents in training: what a decoder knows of y at a cut, through the real integer tables.

A batch is taken as one picture: all of it is cut at one place, so that easy and hard patches meet the same priority
threshold, as they do inside a picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.entropy.tables import MEAN_UNIT, Tables


@dataclass(frozen=True)
class PartialLatents:
    """float32 tensors of y's shape: the estimate of y, and the standard deviation left in each element."""

    y_hat: Tensor
    deviation: Tensor


class TorchTables:
    """The tables' y part on the training device."""

    def __init__(self, tables: Tables, device: torch.device) -> None:
        levels = tables.y_levels
        self.trits = torch.from_numpy(tables.trits[:levels].astype("int64")).to(device)
        self.root = torch.from_numpy(tables.root[:levels].astype("int64")).to(device)
        self.first_child = torch.from_numpy(tables.first_child.astype("int64")).to(device)
        self.priority = torch.from_numpy(tables.priority.astype("float32")).to(device)
        self.mean = torch.from_numpy(tables.mean.astype("float32") / MEAN_UNIT).to(device)
        self.deviation = torch.from_numpy(tables.deviation.astype("float32") / MEAN_UNIT).to(device)

    def cut(self, y: Tensor, mu: Tensor, level: Tensor, missing: float) -> PartialLatents:
        """Return what is known of *y* when *missing* planes, fractional, have not arrived.

        Args:
            y, mu, level: float32 (B, C, h, w); level is real-valued and rounded here.
            missing: 0 for complete latents; 1.25 for all planes but the last, and a quarter of the last but one.
        """
        levels = level.round().clamp(0, len(self.trits) - 1).long()
        trits = self.trits[levels]
        largest = (3**trits - 1) // 2
        symbols = torch.minimum(torch.maximum((y - mu).round().long(), -largest), largest)
        most = int(self.trits.max())
        shifted = symbols + (3 ** (most + 1) - 1) // 2
        whole = int(missing)
        nodes = self.root[levels]
        for place in range(most, whole, -1):
            joined = trits >= place
            if place == whole + 1 and missing > whole:
                joined &= self._arrived(nodes, joined, 1.0 - (missing - whole))
            digit = shifted // 3 ** (place - 1) % 3
            inner = torch.where(joined, nodes, 0)
            nodes = torch.where(joined, self.first_child[inner] + digit, nodes)
        return PartialLatents(self.mean[nodes] + mu, self.deviation[nodes])

    def _arrived(self, nodes: Tensor, joined: Tensor, share: float) -> Tensor:
        """True for the *share* of the joined elements that has the highest priority; ties are drawn."""
        priority = self.priority[torch.where(joined, nodes, 0)] + torch.rand_like(nodes, dtype=torch.float32)
        candidates = priority[joined]
        kept = max(1, min(len(candidates), round(share * len(candidates))))
        threshold = candidates.kthvalue(len(candidates) - kept + 1).values if len(candidates) else 0.0
        return priority >= threshold
