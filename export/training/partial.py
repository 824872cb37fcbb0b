"""Partial latents in training: what a decoder knows of y at a cut, through the real integer tables.

A batch is taken as one picture: all of it is cut at one place, so that easy and hard patches meet the same priority
threshold, as they do inside a picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from export.networks.entropy import gaussian_bits, sigma_from_level
from runtime.entropy.tables import MEAN_UNIT, Tables


@dataclass(frozen=True)
class KnownTrits:
    """What of y's symbols is known at a cut; tensors of y's shape.

    Attributes:
        nodes: int64; the node of each element.
        left: int64; how many trits follow there.
        middle: float32; the symbol in the middle of those that are possible.
        coming: bool; the elements whose trit of the plane under way has not come.
        trits: int64; what each element has in that plane.
    """

    nodes: Tensor
    left: Tensor
    middle: Tensor
    coming: Tensor
    trits: Tensor


@dataclass(frozen=True)
class PartialLatents:
    """float32 tensors of y's shape: the estimate of y, the standard deviation left, and between what y must lie."""

    y_hat: Tensor
    deviation: Tensor
    lower: Tensor
    upper: Tensor


@dataclass(frozen=True)
class DifferentiableCut:
    """float32 tensors of y's shape, with gradients to y, mu and level.

    Attributes:
        y_hat: the estimate of y. Gradients pass to y where at least one trit is known, else to mu.
        deviation: the standard deviation left; without gradient.
        bits: what the known trits of each element cost.
    """

    y_hat: Tensor
    deviation: Tensor
    bits: Tensor


class TorchTables:
    """The tables' y part on the training device."""

    def __init__(self, tables: Tables, device: torch.device) -> None:
        levels = tables.y_levels
        self.trits = torch.from_numpy(tables.trits[:levels].astype("int64")).to(device)
        # The first node of each depth of each level's tree; make_tables numbers the nodes of a depth in a row.
        first = torch.from_numpy(tables.root[:levels].astype("int64"))
        depths = []
        for _ in range(int(tables.trits[:levels].max()) + 1):
            depths.append(first)
            inner = first < len(tables.first_child)
            first = torch.where(inner, torch.from_numpy(tables.first_child.astype("int64"))[first * inner], first)
        self.first_node = torch.stack(depths, dim=1).to(device)
        self.priority = torch.from_numpy(tables.priority.astype("int64")).to(device)
        self.mean = torch.from_numpy(tables.mean.astype("float32") / MEAN_UNIT).to(device)
        self.deviation = torch.from_numpy(tables.deviation.astype("float32") / MEAN_UNIT).to(device)
        self.power = 3 ** torch.arange(len(depths) + 1).to(device)

    def cut(self, y: Tensor, mu: Tensor, level: Tensor, missing: float) -> PartialLatents:
        """Return the estimate of *y* when *missing* planes, fractional, have not arrived; see `known`."""
        known = self.known(y, mu, level, missing)
        middle = known.middle + mu
        reach = 0.5 * self.power[known.left] * (known.left > 0)
        return PartialLatents(self.mean[known.nodes] + mu, self.deviation[known.nodes], middle - reach, middle + reach)

    def cut_through(self, y: Tensor, mu: Tensor, level: Tensor, missing: float) -> DifferentiableCut:
        """Return what `cut` does, for training what comes before it: quantisation passes gradients unchanged."""
        with torch.no_grad():
            known = self.known(y, mu, level, missing)
            estimate = self.mean[known.nodes]
            trits = self.trits[level.round().clamp(0, len(self.trits) - 1).long()]
            begun = known.left < trits
            cell = self.power[known.left].float()
        centred = y - mu

        def through(value: Tensor) -> Tensor:
            return torch.where(begun, centred + (value - centred).detach(), value)

        bits = gaussian_bits(through(known.middle), sigma_from_level(level), cell) * begun
        return DifferentiableCut(through(estimate) + mu, self.deviation[known.nodes], bits)

    def known(self, y: Tensor, mu: Tensor, level: Tensor, missing: float) -> KnownTrits:
        """Return what is known of *y* when *missing* planes, fractional, have not arrived.

        Args:
            y, mu, level: float32 (B, C, h, w); level is real-valued and rounded here.
            missing: 0 for complete latents; 1.25 for all planes but the last, and a quarter of the last but one.
        """
        levels = level.round().clamp(0, len(self.trits) - 1).long()
        trits = self.trits[levels]
        largest = (self.power[trits] - 1) // 2
        symbols = torch.minimum(torch.maximum((y - mu).round().long(), -largest), largest) + largest  # from 0 up
        place = math.ceil(missing)
        left = trits.clamp_max(place)
        coming = (trits >= place) if place else torch.zeros_like(trits, dtype=torch.bool)
        if place > missing:
            begun = self._nodes(levels, trits, left, symbols)
            arrived = self._arrived(begun, coming, place - missing)
            left = left - arrived.long()
            coming = coming & ~arrived
        unit = self.power[left]
        middle = symbols // unit * unit + (unit - 1) // 2 - largest
        trit = symbols // self.power[max(place - 1, 0)] % 3
        return KnownTrits(self._nodes(levels, trits, left, symbols), left, middle.float(), coming, trit)

    def _nodes(self, levels: Tensor, trits: Tensor, left: Tensor, symbols: Tensor) -> Tensor:
        depth = self.first_node.shape[1]
        return self.first_node.reshape(-1)[levels * depth + trits - left] + symbols // self.power[left]

    def _arrived(self, nodes: Tensor, joined: Tensor, share: float) -> Tensor:
        """True for the *share* of the joined elements that has the highest priority; of equals, the first in y."""
        elements = nodes[0].numel()
        index = torch.arange(elements, device=nodes.device).reshape(nodes.shape[1:])
        order = self.priority[torch.where(joined, nodes, 0)] * elements - index
        candidates = order[joined]
        if not len(candidates):
            return joined
        kept = max(1, min(len(candidates), round(share * len(candidates))))
        threshold = candidates.kthvalue(len(candidates) - kept + 1).values
        return joined & (order >= threshold)
