"""Probability models in training: factorized prior of z, Gaussian conditional of y.

The runtime never evaluates these: `export.tables` turns them into integer tables once.

Source: Balle et al., "Variational image compression with a scale hyperprior" (ICLR 2018), appendix 6.1, for the
factorized prior; DPICT (CVPR 2022), equations 3 to 5, for the Gaussian conditional.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIGMA_MIN = 0.11
SIGMA_MAX = 64.0
SIGMA_LEVELS = 64
LOG_STEP = math.log(SIGMA_MAX / SIGMA_MIN) / (SIGMA_LEVELS - 1)
LIKELIHOOD_MIN = 2.0**-24  # what an integer table row can express


def sigma_from_level(level: Tensor) -> Tensor:
    """Return the standard deviation of a real-valued sigma level: SIGMA_MIN at 0, SIGMA_MAX at SIGMA_LEVELS - 1.

    Levels outside are clamped; a gradient that would bring a level back inside passes.
    """
    clamped: Tensor = _ClampWithReturn.apply(level.float(), 0.0, SIGMA_LEVELS - 1.0)  # type: ignore[no-untyped-call]
    return torch.exp(clamped * LOG_STEP) * SIGMA_MIN


class _ClampWithReturn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, low: float, high: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        ctx.bounds = (low, high)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        low, high = ctx.bounds
        keep = ((x >= low) | (grad < 0)) & ((x <= high) | (grad > 0))
        return grad * keep, None, None


def gaussian_bits(y_centred: Tensor, sigma: Tensor, cell: float | Tensor = 1.0) -> Tensor:
    """Return the bits of each (noisy) symbol under N(0, sigma^2) integrated over its cell (DPICT, equation 3).

    Args:
        y_centred, sigma: float32 of one shape; the middle of each cell, and the standard deviation.
        cell: width of the cells, one for all or one each.
    """
    magnitude = y_centred.abs()
    inverse = 1.0 / sigma
    upper = torch.special.ndtr((0.5 * cell - magnitude) * inverse)
    lower = torch.special.ndtr((-0.5 * cell - magnitude) * inverse)
    return -torch.log2((upper - lower).clamp_min(LIKELIHOOD_MIN))


def round_through(x: Tensor) -> Tensor:
    """Round to the nearest integer; the gradient passes unchanged."""
    return x + (x.round() - x).detach()


def add_noise(x: Tensor) -> Tensor:
    """Add noise from U(-1/2, 1/2): DPICT, equation 4."""
    return x + torch.rand_like(x) - 0.5


class FactorizedPrior(nn.Module):
    """One learned cumulative distribution per channel: a monotone network from *widths*[0] = 1 to 1."""

    def __init__(self, channels: int, initial_scale: float = 10.0, widths: tuple[int, ...] = (1, 3, 3, 3, 1)) -> None:
        super().__init__()
        scale = initial_scale ** (1 / (len(widths) - 1))
        self.matrices = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.factors = nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(widths):
            start = math.log(math.expm1(1 / scale / fan_out))
            self.matrices.append(nn.Parameter(torch.full((channels, fan_out, fan_in), start)))
            self.biases.append(nn.Parameter(torch.empty(channels, fan_out, 1).uniform_(-0.5, 0.5)))
            if fan_out != 1:
                self.factors.append(nn.Parameter(torch.zeros(channels, fan_out, 1)))

    def cumulative_logits(self, z: Tensor) -> Tensor:
        """Return logits of P(Z < z); *z* is float32 (channels, 1, n)."""
        h = z
        for index, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            h = torch.matmul(F.softplus(matrix), h) + bias
            if index < len(self.factors):
                h = h + torch.tanh(self.factors[index]) * torch.tanh(h)
        return h

    def bits(self, z: Tensor) -> Tensor:
        """Return the bits of each (noisy) element of *z*, (B, channels, h, w)."""
        flat = z.float().transpose(0, 1).reshape(z.shape[1], 1, -1)
        lower = self.cumulative_logits(flat - 0.5)
        upper = self.cumulative_logits(flat + 0.5)
        sign = -torch.sign(lower + upper).detach()
        likelihood = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        bits = -torch.log2(likelihood.clamp_min(LIKELIHOOD_MIN))
        return bits.reshape(z.shape[1], z.shape[0], *z.shape[2:]).transpose(0, 1)
