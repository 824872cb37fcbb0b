"""The `balle` backbone: the hyperprior's networks at their published size, which ProgDTD builds on.

    x -> 1/2 -> 1/4 -> 1/8 -> 1/16: y -> 1/32 -> 1/64: z

5x5 convolutions with stride, and divisive normalisation between them.

h_s, preview and postprocessing are not the paper's: h_s is that of the `edge` backbone at this backbone's width, since
it has to become an exact integer graph; postprocessing is that of the `paper` backbone.

Pictures are float32 in 0..1. `y` has the scale on which rounding to integers is the codec's quantisation.

Source: Balle et al., "Variational image compression with a scale hyperprior" (ICLR 2018), figure 4; h_a without the
absolute value is that of Minnen et al., "Joint autoregressive and hierarchical priors" (NeurIPS 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.networks import edge, paper
from export.networks.dimensions import require_count, require_positive
from export.networks.paper import GDN


@dataclass(frozen=True)
class BalleShape:
    """Widths and scale.

    Attributes:
        n: channels of feature maps and of z.
        m: channels of y.
        latent_gain: y is this many times what the layers give, so that a fresh network's y suits rounding.
        absolute: h_a sees magnitudes (scale hyperprior); otherwise y itself, which models with a mean need.
        sigmoid: g_s ends in one, as that of ProgDTD's authors.
    """

    n: int = 128
    m: int = 192
    latent_gain: float = 64.0
    absolute: bool = True
    sigmoid: bool = False

    def __post_init__(self) -> None:
        """Refuse what no networks can be made with.

        Raises:
            ConfigurationError: a number is out of range.
        """
        require_count(self, 2, "n")  # see `paper.PaperShape`, of which postprocessing is
        require_count(self, 1, "m")
        require_positive(self, "latent_gain")


def _down(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 5, stride=2, padding=2)


def _up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)


class Analysis(nn.Module):
    """g_a: picture (B, 3, 16 h, 16 w) in 0..1 -> y (B, m, h, w)."""

    def __init__(self, shape: BalleShape) -> None:
        super().__init__()
        n = shape.n
        self.layers = nn.Sequential(_down(3, n), GDN(n), _down(n, n), GDN(n), _down(n, n), GDN(n), _down(n, shape.m))
        self.gain = shape.latent_gain

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y * self.gain


class Synthesis(nn.Module):
    """g_s: y_hat (B, m, h, w), and what is still uncertain of it -> picture (B, 3, 16 h, 16 w), about 0..1.

    Args:
        deviation_input: see `edge.Synthesis`.
    """

    def __init__(self, shape: BalleShape, *, deviation_input: bool) -> None:
        super().__init__()
        n, m = shape.n, shape.m
        self.deviation = nn.Conv2d(m, m, 1, bias=False) if deviation_input else None
        self.layers = nn.Sequential(
            _up(m, n),
            GDN(n, inverse=True),
            _up(n, n),
            GDN(n, inverse=True),
            _up(n, n),
            GDN(n, inverse=True),
            _up(n, 3),
        )
        self.gain, self.sigmoid = shape.latent_gain, shape.sigmoid
        if self.deviation is not None:
            nn.init.zeros_(self.deviation.weight)

    def forward(self, y_hat: Tensor, deviation: Tensor | None = None) -> Tensor:
        h = y_hat
        if self.deviation is not None:
            assert deviation is not None
            h = h + self.deviation(deviation)
        x: Tensor = self.layers(h * (1.0 / self.gain))
        return torch.sigmoid(x) if self.sigmoid else x + 0.5


class HyperAnalysis(nn.Module):
    """h_a: y (B, m, 4 h, 4 w) -> z (B, n, h, w)."""

    def __init__(self, shape: BalleShape) -> None:
        super().__init__()
        n = shape.n

        def activation() -> nn.Module:
            return nn.ReLU() if shape.absolute else nn.LeakyReLU(paper.PUBLISHED_SLOPE)

        self.absolute = shape.absolute
        self.layers = nn.Sequential(
            nn.Conv2d(shape.m, n, 3, padding=1), activation(), _down(n, n), activation(), _down(n, n)
        )

    def forward(self, y: Tensor) -> Tensor:
        z: Tensor = self.layers(torch.abs(y) if self.absolute else y)
        return z


def edge_shape(shape: BalleShape) -> edge.EdgeShape:
    """Return the shape of the networks that are shared with the `edge` backbone."""
    return edge.EdgeShape(y_channels=shape.m, z_channels=shape.n, hyper_width=shape.n)


def paper_shape(shape: BalleShape) -> paper.PaperShape:
    """Return the shape of the network that is shared with the `paper` backbone."""
    return paper.PaperShape(n=shape.n, post_width=shape.n)
