"""Networks of DeepFGS that no backbone shapes: redundancy removal, fusion, and the mutual entropy model.

Latents are float32 on the scale on which rounding is the codec's quantisation: l_b of the base, l_s what is scalable.
What gates have to know of a whole picture, the means of a latent, they are given: all else they see is near.

Source: DeepFGS (2022), sections 3.1, 3.3 and 3.4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.networks.blocks import LEAKY_SLOPE, DepthToSpace
from export.networks.edge import HIDDEN_LIMIT

BASE_LIMIT = 128.0  # l_b is clipped to this magnitude before it says anything about l_s
_SPATIAL_WIDTH = 8


def pooled(latent: Tensor) -> Tensor:
    """Return the means of a latent, (B, C, h, w), over all of a picture: (B, C, 1, 1)."""
    return latent.mean(dim=(2, 3), keepdim=True)


class Gates(nn.Module):
    """A factor per channel and a factor per position, both in 0..2, from one latent for another (equations 3 and 7).

    f_mlp(pool(source)) * f_st(mean over channels of source): (B, sources, h, w) and (B, sources, 1, 1), what `pooled`
    returns of the former, -> (B, gated, h, w). Starts at 1.
    """

    def __init__(self, sources: int, gated: int) -> None:
        super().__init__()
        hidden = max(8, sources // 4)
        self.channel = nn.Sequential(
            nn.Conv2d(sources, hidden, 1), nn.LeakyReLU(LEAKY_SLOPE), nn.Conv2d(hidden, gated, 1)
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(1, _SPATIAL_WIDTH, 3, padding=1),
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Conv2d(_SPATIAL_WIDTH, 1, 3, padding=1),
        )
        for last in (self.channel[-1], self.spatial[-1]):
            assert isinstance(last, nn.Conv2d) and last.bias is not None
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, source: Tensor, means: Tensor) -> Tensor:
        channel = self.channel(means)
        spatial = self.spatial(source.mean(dim=1, keepdim=True))
        return 4.0 * torch.sigmoid(channel) * torch.sigmoid(spatial)


class RedundancyRemoval(nn.Module):
    """frr: l_s as its encoder makes it, decoded l_b and its means -> l_s without what l_b says (equation 3)."""

    def __init__(self, base: int, scalable: int) -> None:
        super().__init__()
        self.gates = Gates(base, scalable)

    def forward(self, l_s: Tensor, l_b: Tensor, l_b_means: Tensor) -> Tensor:
        gated: Tensor = l_s * self.gates(l_b, l_b_means)
        return gated


class Fusion(nn.Module):
    """ffm: l_b, l_s (0 where nothing arrived) and its means -> both in one, (B, base + scalable, h, w) (equation 7)."""

    def __init__(self, base: int, scalable: int) -> None:
        super().__init__()
        self.gates = Gates(scalable, base + scalable)

    def forward(self, l_b: Tensor, l_s: Tensor, l_s_means: Tensor) -> Tensor:
        fused: Tensor = torch.cat([l_b, l_s], dim=1) * self.gates(l_s, l_s_means)
        return fused


class ScalableHyperSynthesis(nn.Module):
    """h_s of the scalable part: z_hat (B, z_channels, h, w) -> features (B, width, 4 h, 4 w) in 0..HIDDEN_LIMIT.

    As in `edge.HyperSynthesis`, `layers` become an exact integer graph.
    """

    def __init__(self, z_channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(z_channels, 4 * width, 1),
                DepthToSpace(2),
                nn.Conv2d(width, width, 3, padding=1, groups=width),
                nn.Conv2d(width, 4 * width, 1),
                DepthToSpace(2),
                nn.Conv2d(width, width, 3, padding=1, groups=width),
                nn.Conv2d(width, width, 1),
            ]
        )

    def forward(self, z_hat: Tensor) -> Tensor:
        return _through(self.layers, z_hat).clamp(0.0, HIDDEN_LIMIT)


class Mutual(nn.Module):
    """mutual: features (B, width, h, w), and l_b (B, base, h, w) -> mu and level of l_s (B, scalable, h, w) each.

    Args:
        base: channels of l_b; 0 for a model of l_s that knows its own z alone (as in the paper's ablation).

    The level is real-valued, see `entropy.sigma_from_level`. `layers`, fed with features and l_b clipped to BASE_LIMIT
    in one tensor, become an exact integer graph (equation 11).
    """

    def __init__(self, width: int, base: int, scalable: int) -> None:
        super().__init__()
        self.width, self.base = width, base
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(width + base, 2 * width, 1),
                nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width),
                nn.Conv2d(2 * width, 2 * width, 1),
                nn.Conv2d(2 * width, 2 * scalable, 1),
            ]
        )
        enter, head = self.layers[0], self.layers[-1]
        assert isinstance(enter, nn.Conv2d) and isinstance(head, nn.Conv2d) and head.bias is not None
        with torch.no_grad():
            enter.weight[:, width:].mul_(0.1)  # l_b reaches further than features
            head.weight.mul_(0.1)
            head.bias.zero_()
            head.bias[scalable:] = 20.0  # start at sigma about 0.8

    def side(self, features: Tensor, l_b: Tensor) -> Tensor:
        """Return what `layers` take."""
        return torch.cat([features, l_b.clamp(-BASE_LIMIT, BASE_LIMIT)], dim=1) if self.base else features

    def forward(self, features: Tensor, l_b: Tensor) -> tuple[Tensor, Tensor]:
        mu, level = _through(self.layers, self.side(features, l_b)).chunk(2, dim=1)
        return mu, level


def _through(layers: nn.ModuleList, h: Tensor) -> Tensor:
    """Run a chain whose convolutions, but for the last, are followed by a clamp to 0..HIDDEN_LIMIT."""
    for layer in layers[:-1]:
        h = layer(h)
        if isinstance(layer, nn.Conv2d):
            h = h.clamp(0.0, HIDDEN_LIMIT)
    result: Tensor = layers[-1](h)
    return result
