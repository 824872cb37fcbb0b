"""Another quantisation step for trained networks, without training.

Streams of trit planes end where all planes have arrived. With y, mu and sigma `factor` times as large and everything
else as it was, there is more to send: cuts stay about as good as they were, and streams go on to better pictures.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

from torch import nn

from runtime.errors import UsageError


@runtime_checkable
class Refinable(Protocol):
    """A network between pictures and y, or y and z."""

    def refine_step(self, factor: float) -> None:
        """Change weights in place: what is of y is *factor* times as large, going in and coming out."""
        ...


def refine_step(networks: nn.Module, roles: tuple[str, ...], factor: float) -> None:
    """Make the quantisation of y *factor* times finer, or coarser where it is below 1, in the networks of *roles*.

    Raises:
        UsageError: the family has no such roles, or a network does not know how.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise UsageError(f"a quantisation step can be any positive number of times finer, not {factor}")
    found = {role: getattr(networks, role) for role in roles}
    if not found or not all(isinstance(network, Refinable) for network in found.values()):
        raise UsageError("--finer is for networks of dpict and progdtd on the edge backbone")
    for network in found.values():
        network.refine_step(factor)
