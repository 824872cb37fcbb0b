"""A start for progdtd: a trained hyperprior of another family, its channels by falling energy.

Channels that are sent whole, the most energetic first, come close to an order of importance before anything is trained
for it, and the networks begin at the rate and quality of whole streams that they were trained for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from export.training.grown import without_direct
from export.training.pictures import cropped_sample

_PICTURES = 40  # that energies are measured on
_MULTIPLE = 64  # pixels; see `cropped`


def ordered_by_energy(weights: dict[str, Tensor], networks: Any, pictures: list[Tensor]) -> dict[str, Tensor]:
    """Return *weights* of a family with trit planes as *networks*, of progdtd, can take them.

    Channels of y fall in their mean square, those of z in their variance. The mean that h_s gave is left out, as
    progdtd codes y around zero, and so are direct channels, which progdtd's networks do not have.

    Args:
        weights: g_a, h_a, h_s, prior, preview, and g_s for cuts (`g_s_cuts`); others are ignored.
        networks: of the same backbone; their g_a and h_a are overwritten.
        pictures: uint8 (3, H, W).
    """
    weights = without_direct(weights, networks)
    found = {f"g_s.{k.removeprefix('g_s_cuts.')}": v for k, v in weights.items() if k.startswith("g_s_cuts.")}
    found |= {k: v for k, v in weights.items() if k.partition(".")[0] in ("g_a", "h_a", "h_s", "prior", "preview")}
    found = {k: v for k, v in found.items() if not k.startswith("g_s.deviation.")}
    y_order, z_order = _orders(found, networks, pictures)
    for role, inputs, outputs in (
        ("g_a", None, y_order),
        ("g_s", y_order, None),
        ("h_a", y_order, z_order),
        ("h_s", z_order, y_order + len(y_order)),  # levels follow the means
        ("preview", y_order, None),
    ):
        _reorder(found, role, getattr(networks, role), inputs, outputs)
    return found | {k: v[z_order] for k, v in found.items() if k.startswith("prior.")}


def _orders(weights: dict[str, Tensor], networks: Any, pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the channels of y and of z by falling energy, int64 (C,) each."""
    networks.load_state_dict({k: v for k, v in weights.items() if k.startswith(("g_a.", "h_a."))}, strict=False)
    y_squares, z_sums, z_squares, z_elements = [], [], [], 0
    with torch.no_grad():
        for x in cropped_sample(pictures, _PICTURES, _MULTIPLE):
            y = networks.g_a(x)
            z = networks.h_a(y).round()
            y_squares.append(y.square().mean(dim=(0, 2, 3)))
            z_sums.append(z.sum(dim=(0, 2, 3)))
            z_squares.append(z.square().sum(dim=(0, 2, 3)))
            z_elements += z[:, 0].numel()
    z_mean = torch.stack(z_sums).sum(dim=0) / z_elements
    z_variance = torch.stack(z_squares).sum(dim=0) / z_elements - z_mean.square()
    y_energy = torch.stack(y_squares).mean(dim=0)
    return _falling(y_energy), _falling(z_variance)


def _falling(energy: Tensor) -> Tensor:
    return energy.argsort(descending=True, stable=True)


def _reorder(
    weights: dict[str, Tensor], role: str, network: nn.Module, inputs: Tensor | None, outputs: Tensor | None
) -> None:
    """Put what the first layer of *network* takes, and what its last layer gives, into another order, in *weights*."""
    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    for (name, layer), order, side in ((layers[0], inputs, 1), (layers[-1], outputs, 0)):
        if order is None:
            continue
        weight = f"{role}.{name}.weight"
        axis = 1 - side if isinstance(layer, nn.ConvTranspose2d) else side
        weights[weight] = weights[weight].index_select(axis, order)
        if side == 0 and layer.bias is not None:
            weights[f"{role}.{name}.bias"] = weights[f"{role}.{name}.bias"][order]
