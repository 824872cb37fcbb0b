"""Several training processes as one: gradients are averaged, the first process logs, validates and saves.

On the CPU: a process per core beats one process with as many threads (nothing spins while another has the core).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn


class Group:
    """This process's place among `size` equal ones."""

    def __init__(self, rank: int = 0, size: int = 1, rendezvous: str = "") -> None:
        """Join the group; *rendezvous* is a file path that all processes share, needed when *size* is above 1."""
        self.rank, self.size = rank, size
        if size > 1:
            dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size)

    @property
    def leads(self) -> bool:
        """True in the process that logs, validates and saves."""
        return self.rank == 0

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the group."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def any(self, condition: bool) -> bool:
        """True everywhere if *condition* holds in any process."""
        if self.size == 1:
            return condition
        flag = torch.tensor(float(condition))
        dist.all_reduce(flag)
        return bool(flag > 0)

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1:
            dist.destroy_process_group()
