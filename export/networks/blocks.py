"""Layers shared by the backbones.

Everything here maps to a handful of ONNX operators (Conv, LeakyRelu/Clip, Add, Reshape, Transpose) and keeps
activations small enough for FP16 engines.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAKY_SLOPE = 0.125  # a power of two, so that an integer version of a layer is exact


class DepthToSpace(nn.Module):
    """Move channels into blocks of `size` x `size` positions: (B, C size^2, H, W) -> (B, C, H size, W size).

    Channel order is that of `torch.nn.PixelShuffle` and of ONNX DepthToSpace, mode CRD: c * size^2 + row * size +
    column. Made of two exchanges of neighbouring axes, for which ONNX Runtime takes half or a third of the time.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        size, (batch, channels, height, width) = self.size, x.shape
        x = x.reshape(batch, channels // size, size, height * width).transpose(2, 3)
        x = x.reshape(batch, channels // size**2, size, height, width * size).transpose(2, 3)
        return x.reshape(batch, channels // size**2, height * size, width * size)


class DenseBlock(nn.Module):
    """Residual 3x3 convolution, activation, 1x1 convolution; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1)
        self.project = nn.Conv2d(channels, channels, 1)
        _silence(self.project)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(F.leaky_relu(self.spatial(x), LEAKY_SLOPE))
        return x + y


class DepthwiseBlock(nn.Module):
    """Residual depthwise 3x3, 1x1 expansion by two, activation, 1x1 projection; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.project = nn.Conv2d(2 * channels, channels, 1)
        _silence(self.project)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(F.leaky_relu(self.expand(self.spatial(x)), LEAKY_SLOPE))
        return x + y


def _silence(conv: nn.Conv2d) -> None:
    """Scale a branch's last layer down, so that a residual block starts close to the identity."""
    nn.init.normal_(conv.weight, std=0.01 / math.sqrt(conv.in_channels))
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)


def dct_matrix(size: int) -> Tensor:
    """Return the orthonormal DCT-II matrix, float32 (size, size); row k is the k-th frequency."""
    k = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * (k[None, :] + 0.5) * k[:, None]) * math.sqrt(2.0 / size)
    basis[0] /= math.sqrt(2.0)
    return basis.float()


def block_dct(luma: int, chroma: int) -> Tensor:
    """Return an orthonormal 8x8 block DCT of an RGB picture, lowest frequencies first.

    Args:
        luma, chroma: how many frequencies to keep of the grey axis and of each of the two opponent axes; at most 64.

    Returns:
        float32 (luma + 2 chroma, 192): rows are orthonormal; columns are those of a kernel of three colours and 8x8.
    """
    axis = dct_matrix(8)
    frequencies = torch.einsum("ui,vj->uvij", axis, axis).reshape(64, 64)
    order = sorted(range(64), key=lambda f: (f // 8 + f % 8, max(f // 8, f % 8), f))
    colour = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
    colour = colour / colour.norm(dim=1, keepdim=True)
    rows = [
        torch.einsum("c,fp->fcp", colour[plane], frequencies[order[:count]]).reshape(count, 192)
        for plane, count in ((0, luma), (1, chroma), (2, chroma))
    ]
    return torch.cat(rows)
