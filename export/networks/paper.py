"""The `paper` backbone: DPICT's networks at their published size.

    x -> 1/2 -> 1/4 -> attention -> 1/8 -> 1/16 -> attention -> y -> 1/32 -> 1/64 -> z

These are the networks of Cheng et al. 2020 (attention variant) without the autoregressive mask convolution and with one
Gaussian instead of a mixture: mean and scale come from h_s alone. Four strides of two lead to y and two more to z, so a
picture's sides are multiples of 64.

h_s, crr, cdr and preview are those of the `edge` backbone at this backbone's width. h_s and crr have to become exact
integer graphs, for which dense 3x3 convolutions, as published, are too wide; preview is not in the paper.

Pictures are float32 in 0..1. `y` has the scale on which rounding to integers is the codec's quantisation. A picture
enters uncentred, as published: the constants at the two ends of g_a and g_s then fold into weights and biases.

Source: Cheng et al., "Learned image compression with discretized Gaussian mixture likelihoods and attention modules"
(CVPR 2020); DPICT (CVPR 2022), sections 3.4 and 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.networks import edge
from export.networks.blocks import DepthToSpace
from export.networks.dimensions import require_count, require_positive

LATENT_GAIN = 64.0  # freshly initialised layers give y a deviation of 0.05 around its mean; with this, of about 3
BETA_MIN = 1e-6  # keeps the divisor of a normalisation away from zero
PUBLISHED_SLOPE = 0.01  # of the leaky activations; these networks are never exact, so no power of two is needed


@dataclass(frozen=True)
class PaperShape:
    """Widths: `n` of every feature map and of z, `post_width` of postprocessing; y has n channels too if it is 0.

    `latent_gain` scales y.
    """

    n: int = 192
    post_width: int = 192
    y_channels: int = 0
    latent_gain: float = LATENT_GAIN

    def __post_init__(self) -> None:
        """Refuse what no networks can be made with.

        Raises:
            ConfigurationError: a number is out of range.
        """
        require_count(self, 2, "n", "post_width")  # attention has half as many channels inside
        require_count(self, 0, "y_channels")
        require_positive(self, "latent_gain")


def _edge_shape(shape: PaperShape) -> edge.EdgeShape:
    """Return the shape of the networks that are shared with the `edge` backbone."""
    return edge.EdgeShape(y_channels=shape.y_channels or shape.n, z_channels=shape.n, hyper_width=shape.n)


class GDN(nn.Module):
    """Generalised divisive normalisation: (B, C, H, W) -> the same shape.

    y[i] = x[i] / sqrt(beta[i] + sum_j gamma[i, j] x[j]^2), or times that root if *inverse*. Parameters are the square
    roots of beta and gamma, hence neither can be negative.

    Source: Balle et al., "Density modeling of images using a generalized normalization transformation" (ICLR 2016),
    with both exponents fixed (2 and 1/2); the inverse is the approximation of Balle et al., "End-to-end
    optimized image compression" (ICLR 2017).
    """

    def __init__(self, channels: int, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta_root = nn.Parameter(torch.ones(channels))
        # Off the diagonal next to zero, not zero, where the square would have no gradient.
        self.gamma_root = nn.Parameter((0.1 * torch.eye(channels)).sqrt().clamp_min(2.0**-12))

    def forward(self, x: Tensor) -> Tensor:
        gamma = self.gamma_root.square()[:, :, None, None]
        divisor = F.conv2d(x * x, gamma, self.beta_root.square() + BETA_MIN)
        return x * (divisor.sqrt() if self.inverse else divisor.rsqrt())


def _between(inputs: int, outputs: int) -> nn.Module:
    """Return a 1x1 convolution, or nothing where the channels agree, as they do in the papers."""
    return nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)


def _conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


def _subpixel(inputs: int, outputs: int) -> nn.Sequential:
    """Return a 3x3 convolution that doubles height and width."""
    return nn.Sequential(_conv3(inputs, 4 * outputs), DepthToSpace(2))


def _leaky() -> nn.LeakyReLU:
    return nn.LeakyReLU(PUBLISHED_SLOPE)


class _Residual(nn.Module):
    """The sum of a branch and a shortcut, which all blocks below are."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x) + self.shortcut(x)
        return y


def _residual_block(n: int) -> nn.Module:
    """Return ResidualBlock: (B, n, H, W) -> the same shape."""
    return _Residual(nn.Sequential(_conv3(n, n), _leaky(), _conv3(n, n), _leaky()))


def _residual_block_with_stride(inputs: int, n: int) -> nn.Module:
    """Return ResidualBlockWithStride: (B, inputs, H, W) -> (B, n, H/2, W/2)."""
    branch = nn.Sequential(_conv3(inputs, n, stride=2), _leaky(), _conv3(n, n), GDN(n))
    return _Residual(branch, nn.Conv2d(inputs, n, 1, stride=2))


def _residual_block_upsample(n: int) -> nn.Module:
    """Return ResidualBlockUpsample: (B, n, H, W) -> (B, n, 2 H, 2 W)."""
    branch = nn.Sequential(_subpixel(n, n), _leaky(), _conv3(n, n), GDN(n, inverse=True))
    return _Residual(branch, _subpixel(n, n))


class Attention(nn.Module):
    """Simplified attention module: features plus features times a mask in 0..1; (B, n, H, W) -> the same shape.

    Source: Cheng et al. 2020; the units inside have plain ReLU, as in the authors' code.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*(self._unit(n) for _ in range(3)))
        self.mask = nn.Sequential(*(self._unit(n) for _ in range(3)), nn.Conv2d(n, n, 1))

    @staticmethod
    def _unit(n: int) -> nn.Module:
        half = n // 2
        branch = nn.Sequential(nn.Conv2d(n, half, 1), nn.ReLU(), _conv3(half, half), nn.ReLU(), nn.Conv2d(half, n, 1))
        return nn.Sequential(_Residual(branch), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.features(x) * torch.sigmoid(self.mask(x))
        return y


class Analysis(nn.Module):
    """g_a: picture (B, 3, 16 h, 16 w) in 0..1 -> y (B, n, h, w)."""

    def __init__(self, shape: PaperShape) -> None:
        super().__init__()
        n = shape.n
        self.layers = nn.Sequential(
            _residual_block_with_stride(3, n),
            _residual_block(n),
            _residual_block_with_stride(n, n),
            Attention(n),
            _residual_block(n),
            _residual_block_with_stride(n, n),
            _residual_block(n),
            _conv3(n, n, stride=2),
            Attention(n),
        )
        self.leave = _between(n, shape.y_channels or n)
        self.gain = shape.latent_gain

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(self.layers(x))
        return y * self.gain


class ScalableAnalysis(Analysis):
    """g_a of scalable features: a picture and what the base makes of it, (B, 3, 16 h, 16 w) each -> (B, n, h, w).

    Source: DeepFGS (2022), equation 2; `squeeze` is F_conv.
    """

    def __init__(self, shape: PaperShape) -> None:
        super().__init__(shape)
        self.squeeze = _conv3(6, 3)

    def forward(self, x: Tensor, x_base: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(self.squeeze(torch.cat([x, x_base], dim=1)))


class Synthesis(nn.Module):
    """g_s: y_hat (B, n, h, w), and what is still uncertain of it -> picture (B, 3, 16 h, 16 w), about 0..1.

    Args:
        deviation_input: take a second tensor of y_hat's shape, the standard deviation left in each element; see
            `edge.Synthesis`.
    """

    def __init__(self, shape: PaperShape, *, deviation_input: bool) -> None:
        super().__init__()
        n, y = shape.n, shape.y_channels or shape.n
        self.enter = _between(y, n)
        self.deviation = nn.Conv2d(y, n, 1, bias=False) if deviation_input else None
        self.layers = nn.Sequential(
            Attention(n),
            _residual_block(n),
            _residual_block_upsample(n),
            _residual_block(n),
            _residual_block_upsample(n),
            Attention(n),
            _residual_block(n),
            _residual_block_upsample(n),
            _residual_block(n),
        )
        self.leave = _subpixel(n, 3)
        self.gain = shape.latent_gain
        if self.deviation is not None:
            nn.init.zeros_(self.deviation.weight)

    def forward(self, y_hat: Tensor, deviation: Tensor | None = None) -> Tensor:
        h = self.enter(y_hat)
        if self.deviation is not None:
            assert deviation is not None
            h = h + self.deviation(deviation)
        x: Tensor = self.leave(self.layers(h * (1.0 / self.gain)))
        return x + 0.5


class HyperAnalysis(nn.Module):
    """h_a: y (B, n, 4 h, 4 w) -> z (B, n, h, w)."""

    def __init__(self, shape: PaperShape) -> None:
        super().__init__()
        n = shape.n
        self.layers = nn.Sequential(
            _conv3(shape.y_channels or n, n),
            _leaky(),
            _conv3(n, n),
            _leaky(),
            _conv3(n, n, stride=2),
            _leaky(),
            _conv3(n, n),
            _leaky(),
            _conv3(n, n, stride=2),
        )

    def forward(self, y: Tensor) -> Tensor:
        z: Tensor = self.layers(y)
        return z


class HyperSynthesis(edge.HyperSynthesis):
    """h_s: z_hat (B, n, h, w) -> mu and sigma level (B, n, 4 h, 4 w) each; layers and limits of `edge.HyperSynthesis`.

    This is the one place that leaves the paper: 1x1 and depthwise convolutions only, so that the same exporter makes
    an exact integer graph of it.
    """

    def __init__(self, shape: PaperShape, *, mean: bool = True) -> None:
        super().__init__(_edge_shape(shape), mean=mean)


class Preview(edge.Preview):
    """preview: y_hat (B, n, h, w) -> picture (B, 3, 16 h, 16 w); layers of `edge.Preview`."""

    def __init__(self, shape: PaperShape) -> None:
        super().__init__(_edge_shape(shape))


class ContextRate(edge.ContextRate):
    """crr: layers and limits of `edge.ContextRate`; the paper's has 103 million weights and could not be exact."""

    def __init__(self, shape: PaperShape, features: int) -> None:
        super().__init__(_edge_shape(shape), features)


class ContextRefinement(edge.ContextRefinement):
    """cdr: layers of `edge.ContextRefinement`."""

    def __init__(self, shape: PaperShape) -> None:
        super().__init__(_edge_shape(shape))


class Post(nn.Module):
    """Postprocessing (g_p of DPICT): picture (B, 3, 4 h, 4 w) -> picture with the artefacts of missing trits reduced.

    An encoder-decoder of 35 convolutions on its longest path. Its last layer starts at zero, so that the network starts
    as the identity.

    Source: DPICT, sections 3.4 and 4.1.
    """

    def __init__(self, shape: PaperShape) -> None:
        super().__init__()
        n = shape.post_width
        self.layers = nn.Sequential(
            _residual_block_with_stride(3, n),
            _residual_block(n),
            _residual_block_with_stride(n, n),
            Attention(n),
            _residual_block(n),
            Attention(n),
            _residual_block(n),
            _residual_block_upsample(n),
            _residual_block(n),
        )
        leave = _conv3(n, 12)
        nn.init.zeros_(leave.weight)
        assert leave.bias is not None
        nn.init.zeros_(leave.bias)
        self.leave = nn.Sequential(leave, DepthToSpace(2))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.leave(self.layers(x))
        return x + residual
