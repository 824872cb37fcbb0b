"""What a network costs to run, in multiply-accumulates: the figure that budgets and model cards state."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def macs_per_pixel(module: nn.Module, *inputs: Tensor, pixels: int) -> float:
    """Run *module* once on *inputs* and return its multiply-accumulates per pixel of the picture.

    Convolutions and matrix products are counted, those inside a normalisation too (hooks on `nn.Conv2d` would miss
    them); zero padding counts as if it were data. Elementwise work and moves of data are not counted.

    Args:
        inputs: what `module.forward` takes. With module and inputs on the device `meta` nothing is computed.
        pixels: height times width of the picture that the inputs belong to, times the batch.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    operations: int = counter.get_total_flops()
    return operations / 2 / pixels  # a multiply-accumulate is two operations
