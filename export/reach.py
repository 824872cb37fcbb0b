"""How far a network sees: the distance at which an input can still change an output."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn

_LARGEST = 1024  # pixels a side: a network that sees farther than half of it is taken to see everything
_FAR = 1e6  # beyond all that a network makes of inputs of 0 and 1


def reach_of(
    network: nn.Module,
    channels: list[int],
    multiple: int,
    pixels: int,
    fixed: Collection[int] = (),
    ends: tuple[int, int] | None = None,
) -> int | None:
    """Return how many input positions away a change can be seen in *network*'s output, None if anywhere.

    Found by running the network with positive weights, where nothing cancels, on constant inputs that differ in one
    row. Layers are means over all that they see: sums would saturate a sigmoid, and hide what it depends on. A network
    of which nothing was seen that way, as a change of one of its inputs never showed, is taken to see everything.

    Args:
        channels: of every input.
        multiple: heights and widths of inputs are multiples of this.
        pixels: pixels of the picture per input position.
        fixed: which inputs are one position large; they are the same for all of a picture, and have no reach.
        ends: which two inputs are the lower and the upper end of what comes out. They hide a change unless they are far
            apart, and show their own where the output is at one of them.
    """
    probe = copy.deepcopy(network).double().eval()
    for module in probe.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.constant_(module.weight, 1.0 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    blocks = 4
    levels = _levels(len(channels), ends)
    while blocks * multiple * pixels <= _LARGEST:
        moving = [one for one in range(len(channels)) if one not in fixed]
        reaches = [_seen_at(probe, channels, blocks, multiple, one, fixed, levels) for one in moving]
        if None not in reaches:
            return max(reach for reach in reaches if reach is not None)
        blocks *= 2
    return None


def _levels(inputs: int, ends: tuple[int, int] | None) -> list[list[float]]:
    """Return what to run the network on: a constant for every input."""
    # On zeros nothing cancels or is lost to rounding; on ones a factor shows that depends on all of the input.
    levels = [[level] * inputs for level in (0.0, 1.0)]
    if ends is None:
        return levels
    # The output is between both ends, at the lower one, at the upper one.
    places = ((-_FAR, _FAR), (_FAR, 2 * _FAR), (-2 * _FAR, -_FAR))
    found = []
    for one in levels:
        for place in places:
            found.append(one.copy())
            found[-1][ends[0]], found[-1][ends[1]] = place
    return found


def _seen_at(
    probe: nn.Module,
    channels: list[int],
    blocks: int,
    multiple: int,
    changed: int,
    fixed: Collection[int],
    levels: list[list[float]],
) -> int | None:
    """Return the reach of input *changed*; None if no change is seen, or one spans the whole output at this size."""
    size = blocks * multiple
    first = blocks // 2 * multiple
    reach = None
    for place in (first, first + multiple - 1):
        sizes = [(1, 1) if one in fixed else (size, multiple) for one in range(len(channels))]
        differs = torch.stack([_changes(probe, channels, sizes, changed, place, one) for one in levels]).any(dim=0)
        rows = torch.nonzero(differs)[:, 0]
        if len(rows) == 0:
            continue
        if rows[0] == 0 or rows[-1] == len(differs) - 1:
            return None
        scale = len(differs) / size
        low, high = int(rows[0] / scale), int(-(-(int(rows[-1]) + 1) // scale)) - 1
        reach = max(reach or 0, place - low, high - place)
    return reach


def _changes(
    probe: nn.Module, channels: list[int], sizes: list[tuple[int, int]], changed: int, place: int, levels: list[float]
) -> Tensor:
    """Return which rows of the output change with one row of an input; bool (H,)."""
    # Networks take 0.5 off pictures: what is zero there stays zero.
    inputs = [
        torch.full((1, c, *size), level + (0.5 if c == 3 else 0.0), dtype=torch.float64)
        for c, size, level in zip(channels, sizes, levels, strict=True)
    ]
    with torch.no_grad():
        still = probe(*inputs)
        inputs[changed][:, :, place] += 1.0
        seen: Tensor = (probe(*inputs) != still).any(dim=3).any(dim=1)[0]
    return seen
