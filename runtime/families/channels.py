"""Latents that are sent channel by channel: the walk, how far it is, and side information between channels.

An array of channels is a field in C order (channel, row, column). Each channel is sent as trit planes of its own, so a
stream may be cut inside a channel, too.

Source: ProgDTD (CVPR workshops 2023), section 3.3.3, sends whole channels in order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from runtime.entropy.plan import Field, Plane, Step, in_array_order, plane_by_priority, trit_planes


def channels_in_order(field: Field, channels: int, plane: Plane = plane_by_priority) -> Iterator[Step]:
    """Yield the planes of the first channel of *field*, then those of the second, and so on.

    Args:
        channels: how many equal parts *field* has.
        plane: see `runtime.entropy.plan.trit_planes`.
    """
    area = len(field.nodes) // channels
    for start in range(0, channels * area, area):
        yield from trit_planes(field.part(slice(start, start + area)), plane)


def channels_known(field: Field, channels: int, trits_left: NDArray[np.uint8]) -> float:
    """Return how many channels of *field* are known, fractional: a channel in part counts as the share of its trits.

    A channel that has no trits, as all its symbols are certain, is known as soon as those before it are.

    Args:
        trits_left: uint8 (N,), by node; see `Tables.trits_left`.
    """
    total = field.trits.reshape(channels, -1).sum(axis=1, dtype=np.int64)
    left = trits_left.take(field.nodes).reshape(channels, -1).sum(axis=1, dtype=np.int64)
    unfinished = np.flatnonzero(left)
    if not len(unfinished):
        return float(channels)
    first = int(unfinished[0])
    return first + float(1 - left[first] / total[first])


def side_information(field: Field, then: tuple[str, ...]) -> Iterator[Step]:
    """Yield the planes of *field* in array order, as steps that are of no worth to a picture by themselves.

    Args:
        then: the exact graphs that run when all of *field* is known.
    """
    for step in in_array_order(field):
        step.worth = 0.0
        if step.place == 1:
            step.then = then
        yield step
