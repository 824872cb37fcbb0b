"""The preview network that checkpoints of others lack: a linear map, fitted by least squares."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.networks.blocks import DepthToSpace, SpaceToDepth

Case = tuple[tuple[Tensor, ...], Tensor]  # inputs of the network, float32 (1, C, h, w) each; picture (1, 3, 16 h, 16 w)

_SIDE = 4  # an element of y stands for 4x4 pixels of the preview
_RIDGE = 1e-4  # of the inputs' mean square, so that what never varies gets no weight


class LinearPreview(nn.Module):
    """preview: y_hat, and its deviation if *deviation_input* -> picture (B, 3, 4 h, 4 w)."""

    def __init__(self, y_channels: int, *, deviation_input: bool) -> None:
        super().__init__()
        self.y_hat = nn.Conv2d(y_channels, 3 * _SIDE**2, 1)
        self.deviation = nn.Conv2d(y_channels, 3 * _SIDE**2, 1, bias=False) if deviation_input else None
        self.unfold = DepthToSpace(_SIDE)

    def forward(self, y_hat: Tensor, deviation: Tensor | None = None) -> Tensor:
        """Return the picture."""
        h = self.y_hat(y_hat)
        if self.deviation is not None:
            assert deviation is not None
            h = h + self.deviation(deviation)
        x: Tensor = self.unfold(h)
        return x


def fit_preview(preview: nn.Module, cases: Iterable[Case]) -> None:
    """Set the weights of a `LinearPreview` that make the squared error of *cases* least."""
    assert isinstance(preview, LinearPreview)
    fold = SpaceToDepth(_SIDE)
    moments: list[Tensor] = []
    for inputs, x in cases:
        columns = torch.cat([*inputs, torch.ones_like(inputs[0][:, :1])], dim=1).double().flatten(2)[0]
        target = fold(F.avg_pool2d(x, _SIDE)).double().flatten(2)[0]
        found = [columns @ columns.T, target @ columns.T]
        moments = [a + b for a, b in zip(moments, found, strict=True)] if moments else found
    square, mixed = moments
    square += _RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    weight = torch.linalg.solve(square, mixed.T).T.float()[:, :, None, None]
    with torch.no_grad():
        channels = preview.y_hat.in_channels
        preview.y_hat.weight.copy_(weight[:, :channels])
        assert preview.y_hat.bias is not None
        preview.y_hat.bias.copy_(weight[:, -1, 0, 0])
        if preview.deviation is not None:
            preview.deviation.weight.copy_(weight[:, channels:-1])
