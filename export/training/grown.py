"""A start with more channels of y: direct ones (see `EdgeShape`), for what trained networks without them lose.

Before anything is rounded, a picture has already lost what the networks have no room for. The new channels are the
linear map of so many channels that tells most of that error (reduced-rank regression of g_s's error by the picture).
Their scales follow from h_s's last hidden features by regression, too. Everything else stays as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from export.networks.edge import kernels_of_16
from export.networks.entropy import LOG_STEP, SIGMA_MIN
from export.training.pictures import cropped_sample

# Weights of layers that y goes into.
_INPUTS = {
    f"{name}.weight"
    for name in ("g_s.enter", "g_s_cuts.enter", "g_s_cuts.deviation", "preview.enter16", "h_a.layers.0")
}
_PICTURES = 80  # that regressions are made on
_MULTIPLE = 64  # pixels; see `cropped`
_RIDGE = 1e-4  # of the mean square
_LEAST_SQUARE = 0.01  # of an element: finer scales are of no use
_MEAN_LOG_OF_NORMAL = -0.635  # of |x| under N(0, 1)


def grown(weights: dict[str, Tensor], networks: Any, pictures: list[Tensor]) -> dict[str, Tensor]:
    """Return *weights*, of networks without direct channels, as *networks*, which have them, can take them.

    Weights that have as many channels already are returned as they are.

    Args:
        weights: g_a, h_a, h_s, prior, `g_s_cuts`; where there are more of y's networks, they are grown, too.
        networks: of the same backbone otherwise; their weights are overwritten.
        pictures: uint8 (3, H, W).

    Raises:
        KeyError: *weights* lack g_s on cuts, whose error the new channels are for.
    """
    direct = getattr(networks.g_a, "direct", None)
    if direct is None or "g_a.direct.weight" in weights:
        return weights
    if "g_s_cuts.leave.weight" not in weights:
        raise KeyError("g_s_cuts")
    had = len(weights["g_a.leave.weight"])
    wanted = {name: tensor.shape for name, tensor in networks.state_dict().items()}
    found = {
        name: _spread(tensor, wanted[name], had, had + direct.out_channels) if name in wanted else tensor
        for name, tensor in weights.items()
    }
    for role in ("g_a", "g_s", "g_s_cuts"):
        if f"{role}.leave.weight" in found:
            found |= {k: torch.zeros(s) for k, s in wanted.items() if k.startswith(f"{role}.direct.")}
    networks.load_state_dict(found, strict=False)
    with torch.no_grad():
        given, made = _directions(networks, pictures, direct.out_channels)
        found["g_a.direct.weight"] = kernels_of_16(given)
        for role in ("g_s", "g_s_cuts"):
            if f"{role}.direct.weight" in found:
                found[f"{role}.direct.weight"] = made.reshape(wanted[f"{role}.direct.weight"])
        weight, bias = _levels(networks, pictures, given)
        head = _head(networks)
        found[f"{head}.weight"][-direct.out_channels :, :, 0, 0] = weight
        found[f"{head}.bias"][-direct.out_channels :] = bias
    return found


def without_direct(weights: dict[str, Tensor], networks: Any) -> dict[str, Tensor]:
    """Return *weights* without direct channels of y, for networks that have none.

    Args:
        networks: of the same backbone; only how many layers they have matters.
    """
    if "g_a.direct.weight" not in weights:
        return weights
    had, direct = len(weights["g_a.leave.weight"]), len(weights["g_a.direct.weight"])
    found = {k: v for k, v in weights.items() if ".direct." not in k}
    for name in _INPUTS & found.keys():
        found[name] = found[name][:, :had]
    for name in (f"{_head(networks)}.weight", f"{_head(networks)}.bias"):
        heads = found[name].chunk(len(found[name]) // (had + direct))  # means, then levels
        found[name] = torch.cat([one[:had] for one in heads])
    return found


def _head(networks: Any) -> str:
    return f"h_s.layers.{len(networks.h_s.layers) - 1}"


def _spread(tensor: Tensor, shape: torch.Size, had: int, channels: int) -> Tensor:
    """Return *tensor* with *channels* of y instead of *had*, new ones 0, wherever *shape* says that it has them.

    An axis may hold several arrays of channels, one after the other, as h_s's outputs do.
    """
    for axis, (old, new) in enumerate(zip(tensor.shape, shape, strict=False)):
        if old != new and old % had == 0 and new == old // had * channels:
            before, after = tensor.shape[:axis], tensor.shape[axis + 1 :]
            larger = torch.zeros(*before, old // had, channels, *after)
            larger.narrow(axis + 1, 0, had).copy_(tensor.reshape(*before, old // had, had, *after))
            tensor = larger.flatten(axis, axis + 1)
    return tensor


@dataclass
class _Regression:
    """Sums for least squares of targets (n, T) by inputs (n, I)."""

    inputs: Tensor | float = 0.0
    both: Tensor | float = 0.0

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs = self.inputs + inputs.T @ inputs
        self.both = self.both + targets.T @ inputs

    def solve(self) -> tuple[Tensor, Tensor]:
        """Return the map (T, I), and the sum of squares of what it gives, (T, T)."""
        assert isinstance(self.inputs, Tensor) and isinstance(self.both, Tensor)
        ridge = _RIDGE * self.inputs.diagonal().mean() * torch.eye(len(self.inputs), dtype=self.inputs.dtype)
        linear = torch.linalg.solve(self.inputs + ridge, self.both.T).T
        return linear, linear @ self.inputs @ linear.T


def _directions(networks: Any, pictures: list[Tensor], channels: int) -> tuple[Tensor, Tensor]:
    """Return what the new channels are of a block of 16x16 pixels, (channels, 768), and what they add, transposed."""
    g_a, g_s = networks.g_a, networks.g_s_cuts
    regression = _Regression()
    for x in cropped_sample(pictures, _PICTURES, _MULTIPLE):
        y = g_a(x)
        lost = x - g_s(y, torch.zeros_like(y))
        regression.add(_blocks((x - 0.5) * g_a.gain), _blocks(lost * g_s.gain))
    linear, explained = regression.solve()
    directions = torch.linalg.eigh(explained).eigenvectors.flip(1)[:, :channels]
    return (directions.T @ linear).float(), directions.float()


def _levels(networks: Any, pictures: list[Tensor], given: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of h_s's last layer for the sigma levels of the new channels."""
    hidden: list[Tensor] = []
    hook = networks.h_s.layers[-1].register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    regression = _Regression()
    for x in cropped_sample(pictures, _PICTURES, _MULTIPLE):
        networks.analyse(x)
        new = _blocks((x - 0.5) * networks.g_a.gain) @ given.double().T
        inputs = _rows(hidden.pop()).double()
        level = (0.5 * (new.square() + _LEAST_SQUARE).log() - _MEAN_LOG_OF_NORMAL - math.log(SIGMA_MIN)) / LOG_STEP
        regression.add(torch.cat([inputs, torch.ones(len(inputs), 1, dtype=inputs.dtype)], dim=1), level)
    hook.remove()
    linear = regression.solve()[0].float()
    return linear[:, :-1], linear[:, -1]


def _blocks(x: Tensor) -> Tensor:
    """Return blocks of 16x16 pixels, float64 (n, 768), in the order that `kernels_of_16` has."""
    return _rows(F.pixel_unshuffle(F.pixel_unshuffle(x.double(), 8), 2))


def _rows(features: Tensor) -> Tensor:
    """Return (B, C, h, w) as (B h w, C)."""
    return features.movedim(1, -1).flatten(0, -2)
