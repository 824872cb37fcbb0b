"""h_s of models that others trained: dense 3x3 convolutions, upsampled by sub-pixels, with leaky or plain ReLU.

Published hyper synthesis networks come down to one form of layer: a convolution of 1x1 or 3x3, DepthToSpace where it
enlarges, and an activation. A transposed convolution is such a layer with four times the channels, one set for each
place of a 2x2 block (`convolution_of_transposed`). `export.dense_integers` makes exact graphs of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.networks.entropy import LOG_STEP, SIGMA_MIN

BLOCK = 2  # an enlarging layer's factor


class DenseLayer(nn.Module):
    """A convolution with padding, sub-pixels if it enlarges, and max(x, slope x).

    Args:
        weight: float32 (out, in, k, k), k of 1 or 3; *out* is four times the channels of the result if it enlarges.
        slope: 0 for ReLU; None without an activation.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, enlarges: bool = False, slope: float | None = None) -> None:
        super().__init__()
        outputs, inputs, kernel, _ = weight.shape
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        with torch.no_grad():
            self.conv.weight.copy_(weight)
            assert self.conv.bias is not None
            self.conv.bias.copy_(bias)
        self.enlarges, self.slope = enlarges, slope

    def before_activation(self, x: Tensor) -> Tensor:
        """Return what the convolution gives, enlarged."""
        h: Tensor = self.conv(x)
        return F.pixel_shuffle(h, BLOCK) if self.enlarges else h

    def forward(self, x: Tensor) -> Tensor:
        h = self.before_activation(x)
        return h if self.slope is None else F.leaky_relu(h, self.slope)


class DenseHyperSynthesis(nn.Module):
    """h_s: symbols of z (B, C, h, w) -> mu and sigma level (B, M, 4 h, 4 w) each.

    Args:
        layers: the last one gives standard deviations, and behind them means if *mean*.
        median: float32 (C,); what symbol 0 of each channel stands for.
        mean: without it mu is zero.
    """

    def __init__(self, layers: Sequence[DenseLayer], median: Tensor, *, mean: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.register_buffer("median", median.reshape(1, -1, 1, 1).float())
        self.mean = mean

    def forward(self, z_symbols: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and level."""
        assert isinstance(self.median, Tensor)
        h = z_symbols + self.median
        for layer in self.layers:
            h = layer(h)
        sigma, mu = h.chunk(2, dim=1) if self.mean else (h, torch.zeros_like(h))
        return mu, (sigma.clamp_min(SIGMA_MIN) / SIGMA_MIN).log() / LOG_STEP


class LevelAlone(nn.Module):
    """An h_s without its mu, for families whose y has none."""

    def __init__(self, h_s: DenseHyperSynthesis) -> None:
        super().__init__()
        self.h_s = h_s

    def forward(self, z_symbols: Tensor) -> tuple[Tensor]:
        """Return the level."""
        return (self.h_s(z_symbols)[1],)


def convolution_of_transposed(weight: Tensor, stride: int) -> Tensor:
    """Return the weights of the convolution that a transposed one is, before sub-pixels.

    Args:
        weight: float32 (in, out, k, k) with padding k // 2 and output padding stride - 1.
        stride: 2 for k = 5, 1 for k = 3.

    Returns:
        float32 (out stride^2, in, 3, 3), channels in the order of `torch.nn.PixelShuffle`.
    """
    inputs, outputs, kernel, _ = weight.shape
    result = torch.zeros(outputs, stride, stride, inputs, 3, 3)
    # Output o = stride i + phase sees input i + t through the kernel's place phase + padding - stride t.
    taps = [
        (phase, t + 1, phase + kernel // 2 - stride * t)
        for phase in range(stride)
        for t in (-1, 0, 1)
        if 0 <= phase + kernel // 2 - stride * t < kernel
    ]
    for row, top, i in taps:
        for column, left, j in taps:
            result[:, row, column, :, top, left] = weight[:, :, i, j].T
    return result.reshape(outputs * stride**2, inputs, 3, 3)


def joined(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution followed by a 1x1 one, as one; both given as weight and bias."""
    weight = torch.einsum("oi,ijkl->ojkl", second[0][:, :, 0, 0].double(), first[0].double())
    bias = second[0][:, :, 0, 0].double() @ first[1].double() + second[1].double()
    return weight.float(), bias.float()
