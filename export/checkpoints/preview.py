"""The preview network that checkpoints of others lack: a linear map, fitted by least squares."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.networks.blocks import DepthToSpace

Case = tuple[Tensor, Tensor]  # y_hat, float32 (1, C, h, w); picture (1, 3, 16 h, 16 w)

_SIDE = 16  # an element of y stands for 16x16 pixels
_RIDGE = 1e-4  # of the inputs' mean square, so that what never varies gets no weight


class LinearPreview(nn.Module):
    """preview: y_hat (B, C, h, w) -> picture (B, 3, 16 h, 16 w)."""

    def __init__(self, y_channels: int) -> None:
        super().__init__()
        self.leave = nn.Conv2d(y_channels, 3 * _SIDE**2, 1)
        self.unfold = DepthToSpace(_SIDE)

    def forward(self, y_hat: Tensor) -> Tensor:
        """Return the picture."""
        x: Tensor = self.unfold(self.leave(y_hat))
        return x


def fit_preview(preview: nn.Module, cases: Iterable[Case]) -> None:
    """Set the weights of a `LinearPreview` that make the squared error of *cases* least."""
    assert isinstance(preview, LinearPreview) and preview.leave.bias is not None
    moments: list[Tensor] = []
    for y_hat, x in cases:
        columns = torch.cat([y_hat, torch.ones_like(y_hat[:, :1])], dim=1).double().flatten(2)[0]
        target = F.pixel_unshuffle(x, _SIDE).double().flatten(2)[0]
        found = [columns @ columns.T, target @ columns.T]
        moments = [a + b for a, b in zip(moments, found, strict=True)] if moments else found
    square, mixed = moments
    square += _RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    weight = torch.linalg.solve(square, mixed.T).T.float()[:, :, None, None]
    with torch.no_grad():
        preview.leave.weight.copy_(weight[:, :-1])
        preview.leave.bias.copy_(weight[:, -1, 0, 0])
