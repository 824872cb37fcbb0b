"""A start for deepfgs: a trained hyperprior of another family, its most energetic channels coarsely as the base.

The base is what that family makes of a picture with a step that is several times as large and without the channels that
hold little; what is scalable are all of its channels, of the picture's difference to the base. Both joined are that
family's latent, so that the networks begin near the quality of whole streams that they were trained for.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from export.networks.entropy import LOG_STEP, SIGMA_MIN
from export.training.grown import without_direct
from export.training.pictures import cropped_sample

_COARSER = 4.0  # the base's quantisation step in that of the other family
_PICTURES = 40  # that energies are measured on
_MULTIPLE = 64  # pixels; see `cropped`


def separated(weights: dict[str, Tensor], networks: Any, pictures: list[Tensor]) -> dict[str, Tensor]:
    """Return *weights* of a family with trit planes as *networks*, of deepfgs, can take them.

    Channels of the base fall in their mean square, scalable ones in what of theirs the base leaves over. Gates of frr
    and ffm begin at 1, as they are made, and mutual with what the other family's h_s says.

    Args:
        weights: g_a, h_a, h_s, prior, preview, and g_s for cuts (`g_s_cuts`); others are ignored.
        networks: of the same backbone, which must be `edge`, with as many scalable channels as that family's y has.
        pictures: uint8 (3, H, W).

    Raises:
        KeyError: *weights* lack a network.
    """
    weights = without_direct(weights, networks)
    base, scalable = _orders(weights, networks, pictures)
    found: dict[str, Tensor] = {}
    for target, source in (
        ("g_a", "g_a"),
        ("g_a_scalable", "g_a"),
        ("g_s", "g_s_cuts"),
        ("h_a", "h_a"),
        ("h_a_scalable", "h_a"),
        ("h_s", "h_s"),
        ("prior", "prior"),
        ("prior_scalable", "prior"),
        ("preview", "preview"),
    ):
        found |= {f"{target}.{k}": v.clone() for k, v in _part(weights, source).items()}
    del found["g_s.deviation.weight"]
    enter = found["g_a_scalable.enter.weight"]
    found["g_a_scalable.enter.weight"] = torch.cat([enter, -enter], dim=1)
    for role, order, scale in (("g_a", base, 1 / _COARSER), ("g_a_scalable", scalable, 1.0)):
        for name in (f"{role}.leave.weight", f"{role}.leave.bias"):
            found[name] = found[name][order] * scale
    for name, order, scale in (("h_a.layers.0.weight", base, _COARSER), ("h_a_scalable.layers.0.weight", scalable, 1)):
        found[name] = found[name][:, order] * scale
    for name in ("g_s.enter.weight", "preview.enter16.weight"):
        found[name] = torch.cat([found[name][:, base] * _COARSER, found[name][:, scalable]], dim=1)
    return found | _scales(weights, networks, base, scalable)


def _scales(weights: dict[str, Tensor], networks: Any, base: Tensor, scalable: Tensor) -> dict[str, Tensor]:
    """Return h_s, h_s_scalable and mutual: the base's scales coarser; of what it leaves over, as rounding makes it."""
    last = max(int(name.split(".")[1]) for name in _part(weights, "h_s"))
    mean, level = weights[f"h_s.layers.{last}.weight"].chunk(2)
    mean_bias, level_bias = weights[f"h_s.layers.{last}.bias"].chunk(2)
    found = {
        f"h_s.layers.{last}.weight": torch.cat([mean[base] / _COARSER, level[base]]),
        f"h_s.layers.{last}.bias": torch.cat(
            [mean_bias[base] / _COARSER, level_bias[base] - math.log(_COARSER) / LOG_STEP]
        ),
    }
    features = {k: v for k, v in _part(weights, "h_s").items() if int(k.split(".")[1]) < last - 1}
    found |= {f"h_s_scalable.{k}": v for k, v in features.items()}
    width, twice = networks.mutual.width, 2 * networks.mutual.width
    found |= _identity(f"h_s_scalable.layers.{last - 1}", torch.eye(width)[:, :, None, None])
    enter = torch.zeros_like(networks.mutual.layers[0].weight)
    enter[:, :width] = weights[f"h_s.layers.{last - 1}.weight"]
    found["mutual.layers.0.weight"], found["mutual.layers.0.bias"] = enter, weights[f"h_s.layers.{last - 1}.bias"]
    spatial = torch.zeros(twice, 1, 3, 3)
    spatial[:, :, 1, 1] = 1.0
    found |= _identity("mutual.layers.1", spatial)
    found |= _identity("mutual.layers.2", torch.eye(twice)[:, :, None, None])
    left_over = torch.isin(scalable, base)
    rounded = (math.log(_COARSER / math.sqrt(12)) - math.log(SIGMA_MIN)) / LOG_STEP
    head, bias = torch.cat([mean[scalable], level[scalable]]), torch.cat([mean_bias[scalable], level_bias[scalable]])
    head[left_over.repeat(2)] = 0.0
    bias[left_over.repeat(2)] = torch.tensor([0.0, rounded]).repeat_interleave(int(left_over.sum()))
    return found | {"mutual.layers.3.weight": head, "mutual.layers.3.bias": bias}


def _identity(layer: str, weight: Tensor) -> dict[str, Tensor]:
    return {f"{layer}.weight": weight, f"{layer}.bias": torch.zeros(len(weight))}


def _orders(weights: dict[str, Tensor], networks: Any, pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return which channels make the base, and all in the order in which they are scalable, int64 (C,) each."""
    g_a = networks.g_a_scalable
    whole = _part(weights, "g_a")
    g_a.load_state_dict(whole | {"enter.weight": torch.cat([whole["enter.weight"]] * 2, dim=1)})
    nothing = 0.5  # what g_a takes for no signal
    squares = []
    with torch.no_grad():
        for x in cropped_sample(pictures, _PICTURES, _MULTIPLE):
            squares.append(g_a(x, torch.full_like(x, nothing)).square().mean(dim=(0, 2, 3)))
    energy = torch.stack(squares).mean(dim=0)
    base = energy.argsort(descending=True, stable=True)[: networks.base_channels]
    energy[base] = energy[base].clamp_max(_COARSER**2 / 12)
    return base, energy.argsort(descending=True, stable=True)


def _part(weights: dict[str, Tensor], role: str) -> dict[str, Tensor]:
    """Return the weights of a network by its own names.

    Raises:
        KeyError: there are none.
    """
    part = {k.removeprefix(f"{role}."): v for k, v in weights.items() if k.startswith(f"{role}.")}
    if not part:
        raise KeyError(role)
    return part
