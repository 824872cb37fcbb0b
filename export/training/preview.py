"""Stage `preview`: the preview network alone, of any family, on partial latents as that family's streams leave them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from export.training.precision import autocast

Draw = Callable[[Any, Tensor], Tensor]  # networks, pictures -> what the preview network sees at a random cut


class PreviewAlone:
    """Loss: log MSE of what the preview network makes of random cuts; everything else is fixed."""

    trains: tuple[str, ...] = ("preview",)

    def __init__(self, draw: Draw) -> None:
        self._draw = draw

    def begin(self, networks: Any) -> None:
        """Start from the weights as they are."""

    def loss(self, networks: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean over pictures."""
        with torch.no_grad():
            known = self._draw(networks, x)
        with autocast(x):
            picture = networks.preview(known)
        log_mse = ((picture.float() - x).square().mean(dim=(1, 2, 3)) * 255.0**2).log().mean()
        return log_mse, {"log_mse_preview": log_mse}
