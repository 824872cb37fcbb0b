"""The `edge` backbone: real-time networks for small GPUs and CPUs.

    x -> blocks of 8x8 -> 1/8 resolution -> 1/16 resolution -> y -> 1/32 -> 1/64 -> z

No feature map is ever as large as the picture, there is no GDN, and most spatial mixing is depthwise. The linear path
through g_a starts as an orthonormal 16x16 transform (block DCT, then Haar over 2x2 blocks) and g_s as its transpose, so
training starts from a transform codec instead of from noise; all residual branches start near zero.

Pictures are float32 in 0..1. `y` has the scale on which rounding to integers is the codec's quantisation.
`refine_step(factor)` of a network makes that quantisation finer, see `export.training.finer`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.networks.blocks import (
    LEAKY_SLOPE,
    DenseBlock,
    DepthToSpace,
    DepthwiseBlock,
    block_dct,
)
from export.networks.dimensions import require_count, require_positive
from export.networks.entropy import LOG_STEP
from runtime.errors import ConfigurationError

HIDDEN_LIMIT = (
    8.0  # activations of exact networks live in 0..HIDDEN_LIMIT, so that their integer form can use its whole range
)
_MOST_WIDTH8 = 128


@dataclass(frozen=True)
class EdgeShape:
    """Widths and depths; `y_channels` and `z_channels` are the latents'.

    The last `direct_channels` of y are a linear transform of blocks of 16x16 pixels, and add to the picture as one: the
    networks between are too narrow for all of a picture's detail, which high rates have room for.
    """

    y_channels: int = 192
    direct_channels: int = 0
    z_channels: int = 96
    width8: int = 128  # feature channels at 1/8 of the picture
    width16: int = 256
    hyper_width: int = 96
    analysis_blocks8: int = 2  # dense ones
    analysis_depthwise8: int = 0  # depthwise ones after them
    analysis_blocks16: int = 2
    synthesis_blocks8: int = 2
    synthesis_depthwise8: int = 0
    synthesis_blocks16: int = 4
    post_blocks8: int = 2
    context_width: int = 384
    context_layers: int = 1  # of spatial mixing in crr
    refine_width: int = 256
    refine_blocks: int = 2
    initial_step: float = 14.0  # quantisation step, in grey levels of 0..255, that the initial transform stands for

    def __post_init__(self) -> None:
        """Refuse what no networks can be made with.

        Raises:
            ConfigurationError: a number is out of range.
        """
        require_count(self, 1, "y_channels", "z_channels", "width16", "hyper_width", "context_width", "refine_width")
        require_count(self, 0, "direct_channels", "context_layers", "refine_blocks", "post_blocks8")
        require_count(self, 0, "analysis_blocks8", "analysis_depthwise8", "analysis_blocks16")
        require_count(self, 0, "synthesis_blocks8", "synthesis_depthwise8", "synthesis_blocks16")
        require_positive(self, "initial_step")
        # Half of these channels begin as frequencies of brightness, of which a block has 64; a quarter each of colour.
        if not (4 <= self.width8 <= _MOST_WIDTH8 and self.width8 % 4 == 0):
            raise ConfigurationError(f"width8 must be a multiple of 4 from 4 to {_MOST_WIDTH8}, not {self.width8}")
        if self.direct_channels and not self.direct_channels < self.y_channels <= 4 * self.width8:
            raise ConfigurationError(
                "direct_channels must be fewer than y_channels, and these at most four times width8, "
                f"not {self.direct_channels}, {self.y_channels} and {self.width8}"
            )


def _haar_merge(width8: int, width16: int) -> Tensor:
    """Return (width16, 4 width8): the `width16` lowest joint frequencies of 2x2 neighbouring 8x8 blocks."""
    haar = 0.5 * torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=torch.float32)
    luma = width8 // 2
    chroma = (width8 - luma) // 2
    rank = [2 * i for i in range(luma)] + [8 * i + 1 for i in range(chroma)] * 2  # chroma carries far less energy
    candidates = sorted((rank[c], h, c) for c in range(width8) for h in range(4))
    matrix = torch.zeros(width16, 4 * width8)
    for row, (_, h, c) in enumerate(candidates[:width16]):
        matrix[row, 4 * c : 4 * c + 4] = haar[h]
    return matrix


def _block_transform(width8: int, count: int) -> Tensor:
    """Return the transform that g_a starts as: (count, 768), rows orthonormal, columns as `kernels_of_16` has them."""
    luma = width8 // 2
    merge = _haar_merge(width8, count).reshape(count, width8, 4)
    return torch.einsum("rcp,ck->rkp", merge, block_dct(luma, (width8 - luma) // 2)).reshape(count, 768)


def kernels_of_16(rows: Tensor) -> Tensor:
    """Return rows (n, 768) as kernels (n, 3, 16, 16).

    Columns are those of two space-to-depths: colour, row and column in a block of 8x8, row and column of that block.
    """
    return rows.reshape(-1, 3, 8, 8, 2, 2).permute(0, 1, 4, 2, 5, 3).reshape(-1, 3, 16, 16)


def _set(conv: nn.Conv2d, matrix: Tensor) -> None:
    """Set the kernels of *conv* to the rows of *matrix*, and its biases to 0."""
    with torch.no_grad():
        conv.weight.copy_(matrix.reshape(conv.weight.shape))
        assert conv.bias is not None
        conv.bias.zero_()


def _blocks8(channels: int, dense: int, depthwise: int) -> nn.Sequential:
    """Return blocks at 1/8 of the picture. A depthwise one has two fifths of the operations of a dense one."""
    return nn.Sequential(
        *(DenseBlock(channels) for _ in range(dense)), *(DepthwiseBlock(channels) for _ in range(depthwise))
    )


class Analysis(nn.Module):
    """g_a: picture (B, 3, 16 h, 16 w) in 0..1 -> y (B, y_channels, h, w)."""

    def __init__(self, shape: EdgeShape) -> None:
        super().__init__()
        w8, w16 = shape.width8, shape.width16
        self.enter = nn.Conv2d(3, w8, 8, stride=8)
        self.blocks8 = _blocks8(w8, shape.analysis_blocks8, shape.analysis_depthwise8)
        self.merge = nn.Conv2d(w8, w16, 2, stride=2)
        self.blocks16 = nn.Sequential(*(DepthwiseBlock(w16) for _ in range(shape.analysis_blocks16)))
        direct = shape.direct_channels
        self.leave = nn.Conv2d(w16, shape.y_channels - direct, 1)
        self.direct = nn.Conv2d(3, direct, 16, stride=16) if direct else None
        # Inside the network features have the scale of pixels in 0..1 times `gain`: that of y.
        self.gain = 255.0 / shape.initial_step
        luma = w8 // 2
        _set(self.enter, block_dct(luma, (w8 - luma) // 2))
        _set(self.merge, _haar_merge(w8, w16))
        _set(self.leave, torch.eye(shape.y_channels - direct, w16))
        if self.direct is not None:
            _set(self.direct, kernels_of_16(_block_transform(w8, shape.y_channels)[-direct:]))

    def forward(self, x: Tensor) -> Tensor:
        scaled = (x - 0.5) * self.gain
        y = self.latents(self.enter(scaled))
        return y if self.direct is None else torch.cat([y, self.direct(scaled)], dim=1)

    def refine_step(self, factor: float) -> None:
        with torch.no_grad():
            for layer in filter(None, (self.leave, self.direct)):
                layer.weight.mul_(factor)
                _bias(layer).mul_(factor)

    def latents(self, h: Tensor) -> Tensor:
        """Return y, all but the direct channels, of features at 1/8 of the picture, (B, width8, 2 h, 2 w)."""
        h = self.merge(self.blocks8(h))
        y: Tensor = self.leave(self.blocks16(h))
        return y


class ScalableAnalysis(Analysis):
    """g_a of scalable features: a picture and what the base makes of it -> (B, y_channels, h, w).

    Both are (B, 3, 16 h, 16 w); the network starts as the transform of their difference. `enter` is F_conv of DeepFGS
    (equation 2), on blocks of 8x8.
    """

    def __init__(self, shape: EdgeShape) -> None:
        super().__init__(shape)
        transform = self.enter.weight.detach().flatten(1)
        self.enter = nn.Conv2d(2 * 3, shape.width8, 8, stride=8)
        _set(self.enter, torch.cat([transform, -transform], dim=1))

    def forward(self, x: Tensor, x_base: Tensor) -> Tensor:  # type: ignore[override]
        # One after the other, as both in one tensor would be all that a large picture's memory is reckoned with.
        weight, of_base = self.enter.weight.chunk(2, dim=1)
        h = F.conv2d((x - 0.5) * self.gain, weight, self.enter.bias, stride=8)
        return self.latents(h + F.conv2d((x_base - 0.5) * self.gain, of_base, stride=8))


class Synthesis(nn.Module):
    """g_s: y_hat (B, y_channels, h, w), and what is uncertain of it -> picture (B, 3, 16 h, 16 w), about 0..1.

    Args:
        deviation_input: take a second tensor of y_hat's shape: the standard deviation left in each element, 0 where the
            symbol is complete. Without it the network is DPICT's g_s, which knows complete latents only.
        parts: channels of latents that are joined in y_hat; the network starts as the transform of their sum.
    """

    def __init__(self, shape: EdgeShape, *, deviation_input: bool, parts: tuple[int, ...] = ()) -> None:
        super().__init__()
        w8, w16 = shape.width8, shape.width16
        self.enter = nn.Conv2d(shape.y_channels, w16, 1)
        self.deviation = nn.Conv2d(shape.y_channels, w16, 1, bias=False) if deviation_input else None
        self.blocks16 = nn.Sequential(*(DepthwiseBlock(w16) for _ in range(shape.synthesis_blocks16)))
        self.split = nn.Conv2d(w16, 4 * w8, 1)
        direct = shape.direct_channels
        self.direct = nn.Conv2d(direct, 4 * 192, 1, bias=False) if direct else None
        self.unfold16 = DepthToSpace(2)
        self.blocks8 = _blocks8(w8, shape.synthesis_blocks8, shape.synthesis_depthwise8)
        self.leave = nn.Conv2d(w8, 192, 1)
        self.unfold = DepthToSpace(8)
        self.gain = 255.0 / shape.initial_step
        luma = w8 // 2
        _set(self.enter, torch.cat([torch.eye(w16, part) for part in parts or (shape.y_channels,)], dim=1))
        _set(self.split, _haar_merge(w8, w16).T)
        _set(self.leave, block_dct(luma, (w8 - luma) // 2).T)
        if self.deviation is not None:
            nn.init.zeros_(self.deviation.weight)
        if self.direct is not None:
            with torch.no_grad():
                self.enter.weight[:, -direct:] = 0.0
                self.direct.weight.copy_(_block_transform(w8, shape.y_channels)[-direct:].T[:, :, None, None])

    def forward(self, y_hat: Tensor, deviation: Tensor | None = None) -> Tensor:
        h = self.enter(y_hat)
        if self.deviation is not None:
            assert deviation is not None
            h = h + self.deviation(deviation)
        h = self.leave(self.blocks8(self.unfold16(self.split(self.blocks16(h)))))
        if self.direct is not None:
            h = h + self.unfold16(self.direct(y_hat[:, -self.direct.in_channels :]))
        x: Tensor = self.unfold(h * (1.0 / self.gain) + 0.5)
        return x

    def refine_step(self, factor: float) -> None:
        with torch.no_grad():
            for layer in filter(None, (self.enter, self.deviation, self.direct)):
                layer.weight.div_(factor)


class HyperAnalysis(nn.Module):
    """h_a: y (B, y_channels, 4 h, 4 w) -> z (B, z_channels, h, w)."""

    def __init__(self, shape: EdgeShape) -> None:
        super().__init__()
        width = 2 * shape.hyper_width
        self.layers = nn.Sequential(
            nn.Conv2d(shape.y_channels, width, 1),
            nn.LeakyReLU(LEAKY_SLOPE),
            DepthwiseBlock(width),
            nn.Conv2d(width, width, 2, stride=2),
            nn.LeakyReLU(LEAKY_SLOPE),
            DepthwiseBlock(width),
            nn.Conv2d(width, shape.z_channels, 2, stride=2),
        )

    def forward(self, y: Tensor) -> Tensor:
        z: Tensor = self.layers(y.abs())
        return z

    def refine_step(self, factor: float) -> None:
        first = self.layers[0]
        assert isinstance(first, nn.Conv2d)
        with torch.no_grad():
            first.weight.div_(factor)


class HyperSynthesis(nn.Module):
    """h_s: z_hat (B, z_channels, h, w) -> mu and sigma level (B, y_channels, 4 h, 4 w) each.

    Args:
        mean: without it the only output is the level, as of a Gaussian around zero.

    The level is real-valued here (`entropy.sigma_from_level` makes a standard deviation of it). Only 1x1 and depthwise
    layers, each followed by a clamp to 0..HIDDEN_LIMIT: `export.integers` turns `layers` into an exact integer graph.
    """

    def __init__(self, shape: EdgeShape, *, mean: bool = True) -> None:
        super().__init__()
        width = shape.hyper_width
        self.heads = 2 if mean else 1
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(shape.z_channels, 4 * width, 1),
                DepthToSpace(2),
                nn.Conv2d(width, width, 3, padding=1, groups=width),
                nn.Conv2d(width, 4 * width, 1),
                DepthToSpace(2),
                nn.Conv2d(width, width, 3, padding=1, groups=width),
                nn.Conv2d(width, 2 * width, 1),
                nn.Conv2d(2 * width, self.heads * shape.y_channels, 1),
            ]
        )
        head = self.layers[-1]
        assert isinstance(head, nn.Conv2d) and head.bias is not None
        with torch.no_grad():
            head.weight.mul_(0.1)
            head.bias.zero_()
            head.bias[-shape.y_channels :] = 20.0  # start at sigma about 0.8

    def forward(self, z_hat: Tensor) -> tuple[Tensor, ...]:
        h = z_hat
        for layer in self.layers[:-1]:
            h = layer(h)
            if isinstance(layer, nn.Conv2d):
                h = h.clamp(0.0, HIDDEN_LIMIT)
        outputs: tuple[Tensor, ...] = self.layers[-1](h).chunk(self.heads, dim=1)
        return outputs

    def refine_step(self, factor: float) -> None:
        head = self.layers[-1]
        assert isinstance(head, nn.Conv2d)
        channels = head.out_channels // self.heads
        with torch.no_grad():
            if self.heads == 2:
                head.weight[:channels].mul_(factor)
                _bias(head)[:channels].mul_(factor)
            _bias(head)[-channels:].add_(math.log(factor) / LOG_STEP)


class ContextRate(nn.Module):
    """crr: what is known of y (B, features y_channels, h, w) -> shift and spread (B, y_channels, h, w) each.

    What comes in and what goes out is stated in `runtime.entropy.context`; here both are real numbers. Only 1x1 and
    depthwise layers, each followed by a clamp to 0..HIDDEN_LIMIT: `export.integers` turns `layers` into an exact graph.

    The network starts as a guess that needs no training: an element's scale is off as that of its neighbours in space
    has turned out to be. Energy (feature 1) plus 1 and certainty (feature 2) have units of their own on the way.
    """

    def __init__(self, shape: EdgeShape, features: int) -> None:
        super().__init__()
        channels, width = shape.y_channels, max(shape.context_width, shape.y_channels)
        enter, leave = nn.Conv2d(features * channels, width, 1), nn.Conv2d(width, 2 * channels, 1)
        layers = [enter]
        with torch.no_grad():
            energy = torch.arange(channels)  # the units that carry the energy of each channel
            certainty = torch.arange(channels, min(width, 2 * channels))
            _start_small(enter, 0.15)
            enter.weight[energy] *= 0.1
            enter.weight[energy, channels + energy] = 1.0
            enter.weight[certainty, channels + certainty] = 1.0
            _bias(enter)[energy] = 1.0
            for _ in range(shape.context_layers):
                spatial, mix = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, width, 1)
                spatial.weight.fill_(0.05)
                spatial.weight[:, :, 1, 1] = 0.6
                _bias(spatial).zero_()
                _start_small(mix, 0.05)
                mix.weight[:, :, 0, 0] += torch.eye(width)
                layers += [spatial, mix]
            _start_small(leave, 0.03)
            _bias(leave).zero_()
            leave.weight[channels + energy, energy] = 0.03
            _bias(leave)[channels:] = -0.03
        self.layers = nn.ModuleList([*layers, leave])

    def forward(self, known: Tensor) -> tuple[Tensor, Tensor]:
        h = known
        for layer in self.layers[:-1]:
            h = layer(h).clamp(0.0, HIDDEN_LIMIT)
        shift, spread = self.layers[-1](h).chunk(2, dim=1)
        return shift, spread


def _start_small(conv: nn.Conv2d, gain: float) -> None:
    """Draw weights that multiply the scale of activations by about *gain*, and leave all units a little active."""
    nn.init.normal_(conv.weight, std=gain / math.sqrt(conv.in_channels))
    nn.init.constant_(_bias(conv), 0.1)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


class ContextRefinement(nn.Module):
    """cdr: y_hat, the deviation left, lower and upper end of what y can be -> y_hat refined; (B, y_channels, h, w) all.

    The correction is in deviations, so that what is complete stays as it is; the result stays between both ends.
    """

    def __init__(self, shape: EdgeShape) -> None:
        super().__init__()
        width = shape.refine_width
        self.enter = nn.Conv2d(2 * shape.y_channels, width, 1)
        self.blocks = nn.Sequential(*(DepthwiseBlock(width) for _ in range(shape.refine_blocks)))
        self.leave = nn.Conv2d(width, shape.y_channels, 1)
        nn.init.normal_(self.leave.weight, std=0.001)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, y_hat: Tensor, deviation: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        h = F.leaky_relu(self.enter(torch.cat([y_hat, deviation], dim=1)), LEAKY_SLOPE)
        refined = y_hat + deviation * self.leave(self.blocks(h))
        return torch.minimum(torch.maximum(refined, lower), upper)


class Preview(nn.Module):
    """preview: y_hat (B, y_channels, h, w) -> picture (B, 3, 16 h, 16 w), about 0..1.

    The straight path of `Synthesis`, half as wide at 1/8, with a depthwise layer at each resolution in place of blocks,
    for a sixteenth of its operations. All of it is linear, and so is most of what g_s does.

    Args:
        parts: see `Synthesis`.
    """

    def __init__(self, shape: EdgeShape, parts: tuple[int, ...] = ()) -> None:
        super().__init__()
        w16, w8 = shape.width16, max(4, shape.width8 // 8 * 4)
        self.enter16 = nn.Conv2d(shape.y_channels, w16, 1)
        self.spatial16 = nn.Conv2d(w16, w16, 3, padding=1, groups=w16)
        self.split = nn.Conv2d(w16, 4 * w8, 1)
        self.unfold16 = DepthToSpace(2)
        self.spatial8 = nn.Conv2d(w8, w8, 3, padding=1, groups=w8)
        self.leave8 = nn.Conv2d(w8, 192, 1)
        self.unfold = DepthToSpace(8)
        self.gain = 255.0 / shape.initial_step
        luma = w8 // 2
        _set(self.enter16, torch.cat([torch.eye(w16, part) for part in parts or (shape.y_channels,)], dim=1))
        _set(self.split, _haar_merge(w8, w16).T)
        _set(self.leave8, block_dct(luma, (w8 - luma) // 2).T)
        for spatial in (self.spatial16, self.spatial8):
            nn.init.dirac_(spatial.weight, groups=spatial.groups)
            nn.init.zeros_(_bias(spatial))

    def forward(self, y_hat: Tensor) -> Tensor:
        h = self.unfold16(self.split(self.spatial16(self.enter16(y_hat))))
        x: Tensor = self.unfold(self.leave8(self.spatial8(h)) * (1.0 / self.gain) + 0.5)
        return x

    def refine_step(self, factor: float) -> None:
        with torch.no_grad():
            self.enter16.weight.div_(factor)


class Post(nn.Module):
    """Postprocessing (g_p of DPICT): picture (B, 3, 8 h, 8 w) -> picture with fewer artefacts of missing trits."""

    def __init__(self, shape: EdgeShape) -> None:
        super().__init__()
        w8 = shape.width8
        self.enter = nn.Conv2d(3, w8, 8, stride=8)
        self.blocks8 = nn.Sequential(*(DenseBlock(w8) for _ in range(shape.post_blocks8)))
        self.leave = nn.Conv2d(w8, 192, 1)
        self.unfold = DepthToSpace(8)
        self.gain = 255.0 / shape.initial_step
        luma = w8 // 2
        _set(self.enter, block_dct(luma, (w8 - luma) // 2))
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks8(self.enter((x - 0.5) * self.gain))
        residual: Tensor = self.unfold(self.leave(h) * (1.0 / self.gain))
        return x + residual
