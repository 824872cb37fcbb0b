"""Validation: held-out pictures at the full stream and at cuts, through the real tables.

The rate is the ideal length under the tables' integer frequencies, which the coder meets within 0.1 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.networks.entropy import SIGMA_LEVELS
from export.tables import make_tables
from export.training.partial import PartialLatents
from export.training.pictures import cropped
from runtime.entropy.plan import Field, trit_planes
from runtime.entropy.tables import MEAN_UNIT, TOTAL_BITS, Tables

CUTS_BPP = (0.1, 0.25, 0.5)
Render = Callable[[Any, str, PartialLatents, float], Tensor]  # networks, stage, what is known, planes missing


class TruncationValidation:
    """PSNR of held-out pictures at CUTS_BPP and at the full stream; rate of the full stream."""

    def __init__(self, pictures: list[Tensor], device: torch.device, render: Render, multiple: int = 64) -> None:
        """Take uint8 (3, H, W) pictures; they are cut to multiples of *multiple*."""
        self._render = render
        self._pictures = [cropped(picture, multiple).to(device) for picture in pictures]

    def __call__(self, networks: Any, stage: str) -> dict[str, float]:
        """Return mean figures over the pictures."""
        tables = make_tables(networks.prior)
        rows = [self._one(networks, stage, tables, x) for x in self._pictures]
        return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}

    def _one(self, networks: Any, stage: str, tables: Tables, x: Tensor) -> dict[str, float]:
        latents = networks.analyse(x)
        pixels = x.shape[2] * x.shape[3]
        z_bits = float(networks.prior.bits(latents.z_hat).sum())
        mu = latents.mu.cpu().numpy()
        symbols = np.rint(latents.y.cpu().numpy() - mu).astype(np.int32).reshape(-1)
        levels = np.clip(np.rint(latents.level.cpu().numpy()), 0, SIGMA_LEVELS - 1).astype(np.int32).reshape(-1)
        y = Field(levels, tables, symbols)
        figures = {"z_bpp": z_bits / pixels}
        wanted = [*(cut * pixels for cut in CUTS_BPP), math.inf]
        bits = z_bits
        for step in trit_planes(y):
            trits = step.trits()
            costs = TOTAL_BITS - np.log2(tables.frequencies[step.rows, trits].astype(np.float64))
            ends = bits + np.cumsum(costs)
            while ends[-1] > wanted[0]:
                known = int(np.searchsorted(ends, wanted.pop(0)))
                step.receive(trits[step.received : known])
                missing = step.place - known / len(step)
                cut = CUTS_BPP[len(CUTS_BPP) - len(wanted)]
                figures[f"psnr_{cut}"] = self._psnr(networks, stage, y, tables, mu, x, missing)
            step.receive(trits[step.received :])
            bits = float(ends[-1])
        full = self._psnr(networks, stage, y, tables, mu, x, 0.0)
        for cut in CUTS_BPP:
            figures.setdefault(f"psnr_{cut}", full)  # the whole stream is shorter
        return figures | {"full_bpp": bits / pixels, "psnr_full": full}

    def _psnr(self, networks: Any, stage: str, y: Field, tables: Tables, mu: Any, x: Tensor, missing: float) -> float:
        unit = np.float32(1 / MEAN_UNIT)
        middle, reach = (array[y.nodes] for array in tables.intervals())
        y_hat, deviation = tables.mean[y.nodes] * unit, tables.deviation[y.nodes] * unit
        estimates = y_hat, deviation, middle - reach, middle + reach
        known = PartialLatents(
            *(
                torch.from_numpy(one.reshape(mu.shape) + (0 if one is deviation else mu)).to(x.device)
                for one in estimates
            )
        )
        x_hat = self._render(networks, stage, known, missing)
        mse = float((x_hat.clamp(0, 1) - x).square().mean())
        return 10 * math.log10(1 / max(mse, 1e-10))
